"""Configurations: the published arguments, what is refused, and SpiNNer's wiring files."""

from __future__ import annotations

import dataclasses
import math
import pickle
from pathlib import Path
from typing import Any

import pytest

from spalloc_server.config.machine import Machine
from spalloc_server.config.options import Hardware, Health, Limits, Scheduling, Web
from spalloc_server.config.settings import Configuration, board_locations_from_spinner
from spalloc_server.coordinates import Chip, Location, board_to_chip
from spalloc_server.errors import ConfigurationError

HERE = Path(__file__).parents[1]
EXAMPLES = HERE.parent / "examples"


def single(name: str, bmp: str | None = None, board: str | None = None) -> Machine:
    return Machine.single_board(name, bmp_ip=bmp or f"{name}-bmp", spinnaker_ip=board or f"{name}-board")


def test_the_published_settings_and_their_defaults() -> None:
    configuration = Configuration()
    assert dataclasses.astuple(configuration)[:6] == ((), 22244, "", 5.0, 1200, 30)


def test_settings_may_be_given_by_position_in_the_published_order() -> None:
    machine = single("m")
    assert Configuration([machine], 1, "127.0.0.1", 2.0, 3, 4) == Configuration(
        machines=[machine],
        port=1,
        ip="127.0.0.1",
        timeout_check_interval=2.0,
        max_retired_jobs=3,
        seconds_before_free=4,
    )


def test_machines_keep_their_order_and_later_changes_of_the_list_do_not_matter() -> None:
    machines = [single("b"), single("a")]
    configuration = Configuration(machines)
    machines.clear()
    assert [machine.name for machine in configuration.machines] == ["b", "a"]


def test_what_is_not_a_machine_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="type Machine; 'm' is not") as caught:
        Configuration(["m"])  # type: ignore[list-item]
    assert isinstance(caught.value, ConfigurationError)


@pytest.mark.parametrize(
    ("machines", "words"),
    [
        ([single("m"), single("m", "x", "y")], ["machine name 'm'", "machine 1", "machine 2"]),
        ([single("m", bmp="x"), single("n", bmp="x")], ["BMP address 'x'", "machine 'm' frame (0, 0)", "machine 'n'"]),
        (
            [single("m", board="x"), single("n", board="x")],
            ["board address 'x'", "machine 'm' board (0, 0, 0)", "machine 'n' board (0, 0, 0)"],
        ),
    ],
)
def test_what_is_used_twice_is_a_value_error_that_names_both_users(machines: list[Machine], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        Configuration(machines)
    assert isinstance(caught.value, ConfigurationError)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"ip": None}, "ip=None.*Expected `str`"),
        ({"timeout_check_interval": 0}, "timeout_check_interval=0.*> 0"),
        ({"max_retired_jobs": -1}, "max_retired_jobs=-1.*>= 0"),
        ({"seconds_before_free": math.nan}, "seconds_before_free=nan"),
        ({"history_days": -1}, "history_days=-1.*>= 0"),
        ({"scheduling": None}, "scheduling=None.*Scheduling"),
        ({"limits": Health()}, "limits=Health.*Limits"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Configuration(**settings)


@pytest.mark.parametrize(
    ("group", "options", "told"),
    [
        (Scheduling, {"policy": "random"}, "Scheduling: policy='random'"),
        (Scheduling, {"half_life": 0}, "Scheduling: half_life=0.*> 0"),
        (Health, {"quarantine_after": 0}, "Health: quarantine_after=0.*>= 1"),
        (Hardware, {"stagger_ms": 65536}, "Hardware: stagger_ms=65536.*<= 65535"),
        (Limits, {"line_bytes": 1.5}, "Limits: line_bytes=1.5.*`int`"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_group_and_name(group: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        group(**options)
    assert isinstance(caught.value, ConfigurationError)


@pytest.mark.parametrize("port", [None, "22245", "x", -1, 65536, 1.5, True, [1], 2**70])
def test_a_port_that_is_none_is_ignored_with_a_warning_as_the_published_server_ignored_all(port: Any) -> None:
    listening, warning = Configuration(port=port).port_and_warning()
    assert listening == 22244
    assert warning is not None
    assert "ignored: it is no TCP port" in warning


def test_a_port_that_moves_the_server_away_from_its_clients_counts_with_a_warning() -> None:
    listening, warning = Configuration(port=23999).port_and_warning()
    assert listening == 23999
    assert warning is not None
    assert "moves there" in warning
    assert Configuration().port_and_warning() == (22244, None)


def test_whole_numbers_may_be_written_as_floats() -> None:
    assert Configuration(max_retired_jobs=1e3) == Configuration(max_retired_jobs=1000)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"max_retired_jobs=0\.5"):
        Configuration(max_retired_jobs=0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "https://hall.example/spalloc",
        "http://hall.example:8080/sites/a-b/spalloc/",
        "https://hall.example",
        "https://192.0.2.1:443",
        "https://[2001:db8::1]:8443/spalloc",
        "",
    ],
)
def test_links_may_begin_with_the_address_of_a_service(url: str) -> None:
    assert Web(base_url=url).base_url == url


@pytest.mark.parametrize(
    "url",
    [
        "hall.example/spalloc",
        "//hall.example/spalloc",
        "ftp://hall.example/spalloc",
        "https:///spalloc",
        "https://:8443/spalloc",
        "https://hall.example:0/spalloc",
        "https://hall.example:99999/spalloc",
        "https://hall.example:port/spalloc",
        "https://[2001:db8::1/spalloc",
        "https://alice:secret@hall.example/spalloc",
        "https://hall.example/spalloc?",
        "https://hall.example/spalloc#top",
        "https://hall.example/spal loc",
        "https://hall.example/spalloc\n",
        "https://h\xe4ll.example/spalloc",
        " https://hall.example/spalloc",
    ],
)
def test_links_cannot_begin_with_anything_else(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Web: base_url=.* such as 'https://"):
        Web(base_url=url)


def test_configurations_are_values() -> None:
    configuration = Configuration([single("m")], limits=Limits(connections=5))
    assert pickle.loads(pickle.dumps(configuration)) == configuration
    assert configuration != Configuration([single("m")])
    with pytest.raises(dataclasses.FrozenInstanceError):
        configuration.port = 1  # type: ignore[misc]


def spinner_place(chip: Chip, width: int, height: int) -> Location:
    """Where SpiNNer puts the board of an Ethernet chip, in closed form, on a machine of width x height triads.

    The torus of boards is folded in two along each axis and the halves are interleaved, so that cables are short;
    then it is cut into cabinets and frames.
    """

    def fold(position: int, size: int) -> int:
        half = math.ceil(size / 2)
        layer, offset = divmod(position, half)
        return 2 * ((size - 1 - position) if layer else offset) + layer

    columns, rows = 3 * width, height
    cabinets = math.ceil(columns * rows / 120)
    frames = 5 if cabinets > 1 else math.ceil(columns * rows / 24)
    x, y = fold(chip[0] // 4, columns), fold(chip[1] // 4 // 3, rows)
    if columns % cabinets or rows % frames:
        columns, rows, x, y = rows, columns, y, x
    columns_of_cabinet, rows_of_frame = columns // cabinets, rows // frames
    board = y % rows_of_frame + rows_of_frame * (x % columns_of_cabinet)
    return x // columns_of_cabinet, y // rows_of_frame, board


@pytest.mark.parametrize(
    ("path", "width", "height"),
    [
        (HERE / "data" / "spinner-3.csv", 1, 1),
        (EXAMPLES / "spinner-24.csv", 4, 2),
        (HERE / "data" / "spinner-120.csv", 8, 5),
        (EXAMPLES / "spinner-1200.csv", 20, 20),
    ],
)
def test_spinner_files_place_every_board_where_the_closed_form_does(path: Path, width: int, height: int) -> None:
    boards = [(x, y, z) for x in range(width) for y in range(height) for z in range(3)]
    expected = {board: spinner_place(board_to_chip(*board), width, height) for board in boards}
    assert board_locations_from_spinner(path) == expected


def test_a_spinner_file_may_have_a_byte_order_mark_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "wiring.csv"
    path.write_text("\ufeffcabinet,frame,board,x,y\r\n\r\n2,1,3,4,8\r\n\r\n")
    assert board_locations_from_spinner(path) == {(0, 0, 2): (2, 1, 3)}


def test_spinner_columns_may_come_in_any_order_and_with_others(tmp_path: Path) -> None:
    path = tmp_path / "wiring.csv"
    path.write_text("y, x, note, board, frame, cabinet\r\n4, 8, spare, 3, 2, 1\r\n")
    assert board_locations_from_spinner(str(path)) == {(0, 0, 1): (1, 2, 3)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: no column cabinet, frame, board, x, y"),
        ("cabinet,frame,x,y\n", "line 1: no column board"),
        ("cabinet,frame,board,x,y\n0,0,0,0,0\n0,0,0,0,a\n", "line 3: .* must all be whole numbers"),
        ("cabinet,frame,board,x,y\n\n0,0,'1,0,0\n", "line 3: .* must all be whole numbers"),
        ('cabinet,frame,board,x,y\n0,0,"1,0,0\n' + "0,0,1,8,4\n" * 20_000, "line 2: not a CSV: .*0,0,.1,0,0"),
        ('cabinet,frame,board,x,y\n0,0,0,0,0\r0,0,"1,8,4\r' + "x" * 131_072, "line 3: not a CSV: "),
        ("cabinet,frame,board,x,y\r\n0,0,0,0,\0\r\n", "line 2: it has a NUL character"),
        ("cabinet,frame,board,x,y\n0,0,0,0," + "9" * 5000, "line 2: .* must all be whole numbers, not .{,110}$"),
        ("cabinet,frame,board,x,y\n0,0,0\n", "line 2: .* must all be whole numbers"),
        ("cabinet,frame,board,x,y\n0,0,0,4,4\n", r"line 2: chip \(4, 4\) is no board's Ethernet chip"),
        ("cabinet,frame,board,x,y\n0,0,0,-12,0\n", r"line 2: chip \(-12, 0\) is no board's Ethernet chip"),
        ("cabinet,frame,board,x,y\n0,0,0,0,0\n0,0,1,0,0\n", r"line 3: chip \(0, 0\) is listed a second time"),
    ],
)
def test_a_spinner_file_that_is_wrong_is_refused_by_file_and_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "wiring.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"wiring\.csv, {told}"):
        board_locations_from_spinner(path)
