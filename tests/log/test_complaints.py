"""Clients that do wrong cannot flood the log."""

from __future__ import annotations

from structlog.testing import capture_logs

from spalloc_server.log.logger import COMPLAINTS, Complaints


def test_only_so_many_warnings_a_second_are_logged_and_then_how_many_were_not() -> None:
    now = 100.0
    complaints = Complaints(lambda: now)
    with capture_logs() as logs:
        for _ in range(COMPLAINTS + 30):
            complaints.complain("client disconnected")
        assert len(logs) == COMPLAINTS
        now += 1
        complaints.complain("client disconnected")
    assert [(line["event"].split()[0], line.get("more")) for line in logs[COMPLAINTS:]] == [
        ("more", 30),
        ("client", None),
    ]
