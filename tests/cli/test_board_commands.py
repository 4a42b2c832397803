"""Commands about boards take many at once, however they are named: all are looked up first, and each has its line."""

from __future__ import annotations

import pytest

from spalloc_server.cli.running_server import OperatorError, RunningServer
from spalloc_server.cli.selectors import boards_named
from spalloc_server.controller import BoardFailure, Outcome
from spalloc_server.core.model.views import BoardView
from tests.cli.test_operators import admin, complaint, data, serving, words
from tests.house import Place

READY = 3


pytestmark = pytest.mark.usefixtures("quiet")


class Boards:
    """Stands for a server that has these boards: two frames of two, one of which has a dead board besides."""

    def __init__(self) -> None:
        self.views = [
            BoardView(
                machine="m",
                x=x,
                y=0,
                z=z,
                state="free",
                cabinet=0,
                frame=x,
                board=number,
                bmp=f"10.0.{x}.0",
                address=f"10.0.{x}.{number + 1}",
            )
            for number, (x, _, z) in enumerate([(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 12)])
        ]
        self.views.append(
            BoardView(machine="m", x=1, y=0, z=2, state="dead", cabinet=0, frame=1, board=9, bmp="10.0.1.0")
        )

    def look(self, *_: object) -> list[BoardView]:
        return self.views


def numbers(*names: str, dead: bool = False) -> list[int | None]:
    server: RunningServer = Boards()  # type: ignore[assignment]
    return [view.board for view in boards_named(server, "m", names, dead=dead)]


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        (["0,0,1"], [1]),
        (["00,0,01", "1,0,12"], [1, 3]),
        (["0/1/2", "0/0/0"], [2, 0]),
        (["0/0/01"], [1]),
        (["10.0.1.4"], [3]),
        (["10.0.0.0"], [0, 1]),
        (["10.0.1.0"], [2, 3]),
        (["0/0/1", "10.0.0.0", "0,0,1", "10.0.0.2"], [1, 0]),
        (["0/0/0-1"], [0, 1]),
        (["0/1/3,2", "0/0/1"], [3, 2, 1]),
        (["0/1/2-2,", "3"], [2, 3]),
        (["0/0/0,", "1", "0/1/2-3"], [0, 1, 2, 3]),
        (["0/1/2, 3"], [2, 3]),
    ],
)
def test_boards_are_named_by_coordinates_place_and_address_each_once(names: list[str], meant: list[int]) -> None:
    assert numbers(*names) == meant


@pytest.mark.parametrize(
    "name",
    [
        *("0,0,2", "0/0/7", "10.9.9.9", "0,0", "0/0", "", " ", "0,0,x", "0,0,-1", "0,0/1", "1,0,2", "None/None/None"),
        *("0/0/1-0", "0/0/0-1,", "0/0/-1", "0/0/0-", "0/0/0-999", "0/0/0-1000", "0/0/0,x", "0/0/0,7"),
    ],
)
def test_a_name_that_is_no_boards_is_told_with_the_ways_to_name_one(name: str) -> None:
    with pytest.raises(
        OperatorError, match=r"m has no board .*: nothing is done\. Name boards by X,Y,Z or CABINET"
    ) as told:
        numbers("0,0,1", name)
    assert f"has no board {name}" in str(told.value)


def test_a_dead_board_is_meant_only_where_that_makes_sense() -> None:
    assert numbers("1,0,2", dead=True) == numbers("0/1/9", dead=True) == [9]
    assert numbers("10.0.1.0", dead=True) == [2, 3]


async def test_boards_are_disabled_and_enabled_together_with_a_line_each(place: Place) -> None:
    async with serving(place) as (_, client):
        job_id = await client.create(0, 1, 0)
        await client.until(job_id, READY)
        shown = await admin(place, "board", "disable", "m", "0,0,1", "0/0/3", "board-1-1-2", "--reason", "wet")
        assert shown.exit_code == 0, shown.output
        assert shown.output.splitlines() == [
            "board 0,0,1 of m (0/0/1): out of service: wet",
            f"board 0,1,0 of m (0/0/3): out of service: wet; job {job_id} keeps it",
            "board 1,1,2 of m (0/0/11): out of service: wet",
        ]
        bad = await data(place, "boards", "--bad")
        assert [(view["board"], view["out_of_service"]) for view in bad] == [(1, "wet"), (3, "wet"), (11, "wet")]
        assert bad[-1]["address"] == "board-1-1-2"
        shown = await admin(place, "board", "enable", "m", "0,0,1", "0,0,2", "1,1,2")
        lines = shown.output.splitlines()
        assert lines[0].startswith("board 0,0,1 of m (0/0/1): free; it was out of service: wet (by ")
        assert lines[1:2] == ["board 0,0,2 of m (0/0/2): free; it was not out of service"]
        await words(place, "board", "enable", "m", place.hosts[0])
        assert await data(place, "boards", "--bad") == []


@pytest.mark.parametrize(
    "command",
    [
        ("board", "disable", "m", "0,0,1", "0,0,9", "--reason", "wet"),
        ("board", "disable", "m", "0/0/12", "0,0,1", "--reason", "wet"),
        ("board", "disable", "m", "0,0,1", "10.1.2.3", "--reason", "wet"),
        ("board", "disable", "n", "0,0,1", "--reason", "wet"),
        ("power-cycle", "m", "0,0,1", "0,0,9"),
    ],
)
async def test_where_one_name_is_wrong_nothing_is_done(place: Place, command: tuple[str, ...]) -> None:
    async with serving(place) as (server, _):
        before = server.controller.board_views()
        assert "has no board" in (told := await complaint(place, *command)) or "there is no machine 'n'" in told
        assert server.controller.board_views() == before


async def test_where_one_board_fails_the_others_are_done_and_the_exit_status_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(place) as (server, client):
        job_id = await client.create(0, 1, 0)
        await client.until(job_id, READY)
        switched = server.controller.switched

        def no_fpga(outcome: Outcome) -> None:
            switched(Outcome(outcome.operation, (BoardFailure(place.hosts[0], 1, "no FPGA"),)))

        monkeypatch.setattr(server.controller, "switched", no_fpga)
        names = ("0,0,1", "0,1,0", "0,0,2")
        shown = await admin(place, "power-cycle", "m", *names)
        assert shown.exit_code == 1
        first, second, third = shown.output.splitlines()
        assert first.startswith("board 0,0,1 of m (0/0/1): failed: no FPGA")
        assert second.startswith(
            f"board 0,1,0 of m (0/0/3): NOT DONE: board (0, 1, 0) of m cannot be power-cycled now: job {job_id}"
        )
        assert third == "board 0,0,2 of m (0/0/2): passed"
        result = await admin(place, "power-cycle", "m", *names[1:], "--json")
        assert result.exit_code == 1


async def test_temperatures_are_those_of_the_boards_that_are_named(place: Place) -> None:
    async with serving(place):
        everything = await data(place, "read-temperatures", "m")
        assert len(everything) == 12
        assert await data(place, "read-temperatures", "m", 0, 0) == everything
        assert await data(place, "read-temperatures", "m", place.hosts[0]) == everything
        some = await data(place, "read-temperatures", "m", "0/0/11", "0,0,1")
        assert [view["board"] for view in some] == [11, 1]
        assert "m has no board 0,0,9" in await complaint(place, "read-temperatures", "m", "0,0,1", "0,0,9")


async def test_blacklists_of_many_boards_are_shown_and_set(place: Place) -> None:
    async with serving(place):
        file = place.folder / "blacklist"
        file.write_text("chip 1 2 dead\n")
        result = await admin(place, "blacklist", "set", "m", "0,0,1", "0/0/2", file)
        assert result.output.splitlines() == [
            "board 0,0,1 of m (0/0/1): 1 line written to its flash",
            "board 0,0,2 of m (0/0/2): 1 line written to its flash",
        ]
        result = await admin(place, "blacklist", "show", "m", "0,0,1", "0,0,0")
        assert result.output.splitlines() == [
            "board 0,0,1 of m (0/0/1): 1 line",
            "  chip 1 2 dead",
            "board 0,0,0 of m (0/0/0): 0 lines",
        ]
        assert (await admin(place, "blacklist", "show", "m", "0,0,1")).output == file.read_text()
