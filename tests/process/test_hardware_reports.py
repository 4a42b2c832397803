"""What the log is told of hardware: a line for each board that failed, and one for a frame, however many it has."""

from __future__ import annotations

from typing import Any

from structlog.testing import capture_logs

from spalloc_server.core.model import BoardFailure, Outcome
from spalloc_server.log.defects import DefectLog
from spalloc_server.process.consequences import Reports
from tests.core.house import House
from tests.core.machines import a_machine

BMP = "bmp-m-0"


def a_house() -> tuple[House, Reports]:
    house = House(a_machine("m", 4, 2), seconds_before_free=0)
    return house, Reports(house.controller, lambda: None, DefectLog())


def all_failed(house: House, reason: str, *, frame_fault: bool) -> Outcome:
    (switch,) = house.asked()
    boards = [(frame.bmp, board) for frame in switch.frames for board in frame.boards]
    return Outcome(switch.operation, tuple(BoardFailure(*board, reason, frame_fault) for board in boards))


def warnings(lines: list[Any]) -> list[tuple[str, str]]:
    return [(line["event"], line["reason"]) for line in lines if line["log_level"] == "warning"]


def test_a_dead_bmp_is_one_line_and_no_failure_of_its_boards() -> None:
    house, reports = a_house()
    job_id = house.create(17, keepalive=None, min_ratio=0)
    with capture_logs() as lines:
        outcome = all_failed(house, "BMP bmp-m-0 does not answer", frame_fault=True)
        reports.frame(BMP, "BMP bmp-m-0 does not answer")
        reports.outcome(outcome)
    assert len(outcome.failures) == 17
    assert warnings(lines) == [
        ("frame does not work: its boards are out of service", "BMP bmp-m-0 does not answer"),
    ]
    assert house.controller.snapshot().boards == []
    failed = [event.reason for event in house.controller.take().events if event.event == "failed"]
    assert failed == ["cabinet 0, frame 0 of m: BMP bmp-m-0 does not answer"]
    assert job_id in house.controller.live_jobs()


def test_a_frame_that_is_not_out_but_at_fault_is_one_line_too() -> None:
    house, reports = a_house()
    house.create(17, keepalive=None, min_ratio=0)
    with capture_logs() as lines:
        reports.frame(BMP, "it was silent")
        reports.frame(BMP, None)
        reports.outcome(all_failed(house, "there is too much to do", frame_fault=True))
    assert warnings(lines)[1:] == [("a frame's boards could not be switched", "there is too much to do")]


def test_a_board_that_failed_is_a_line_of_its_own() -> None:
    house, reports = a_house()
    house.create(3, keepalive=None)
    with capture_logs() as lines:
        reports.outcome(all_failed(house, "no FPGA", frame_fault=False))
    assert warnings(lines) == [("board failed", "no FPGA")] * 3
