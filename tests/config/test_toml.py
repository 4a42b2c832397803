"""The declarative form: three ways to describe a machine, and errors that tell the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from spalloc_server.config.machine import Machine
from spalloc_server.config.options import Hardware, Health, Limits, Scheduling
from spalloc_server.config.settings import Configuration
from spalloc_server.config.toml import read_toml
from spalloc_server.errors import ConfigurationError
from spalloc_server.links import Links

SINGLE = """
[[machine]]
form = "single_board"
name = "one"
bmp_ip = "bmp"
spinnaker_ip = "board"
"""

EXPLICIT = """
[[machine]]
form = "explicit"
name = "m"
width = 1
height = 1
tags = ["a", "b"]
dead_boards = [[0, 0, 2]]
dead_links = [[0, 0, 0, "north_east"]]
board_locations = [
  { board = [0, 0, 0], location = [1, 2, 3] },
  { board = [0, 0, 1], location = [1, 2, 4] },
]
bmp_ips = [{ frame = [1, 2], host = "bmp" }]
[[machine.spinnaker_ips]]
board = [0, 0, 0]
host = "board-0"
[[machine.spinnaker_ips]]
board = [0, 0, 1]
host = "board-1"
"""

STANDARD = """
[[machine]]
form = "standard_ips"
name = "m"
board_locations = "wiring.csv"
base_ip = "10.0.0.0"
"""


def file(folder: Path, text: str) -> Path:
    path = folder / "spalloc.toml"
    path.write_text(text)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a wiring file of one triad."""
    (tmp_path / "wiring.csv").write_text("cabinet,frame,board,x,y\n0,0,0,0,0\n0,0,1,8,4\n0,0,2,4,8\n")
    return tmp_path


def test_a_file_without_machines_must_say_so(folder: Path) -> None:
    assert read_toml(file(folder, "machine = []")) == Configuration()


@pytest.mark.parametrize("text", ["", "\n", "# all gone\n", 'ip = "127.0.0.1"\n[access]\nclients = ["10.0.0.0/8"]\n'])
def test_a_file_that_says_nothing_of_machines_is_refused_and_told_what_would_be_right(folder: Path, text: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"spalloc\.toml: it names no machines.*\[\[machine\]\].*machine = \[\]"
    ):
        read_toml(file(folder, text))


def test_settings_and_groups_have_the_names_of_the_model(folder: Path) -> None:
    text = """
machine = []
port = 1
ip = "127.0.0.1"
timeout_check_interval = 2
max_retired_jobs = 3
seconds_before_free = 4.5
history_days = 6
[scheduling]
policy = "fifo"
[health]
strikes = 7
[hardware]
stagger_ms = 9
[limits]
connections = 8
"""
    assert read_toml(file(folder, text)) == Configuration(
        port=1,
        ip="127.0.0.1",
        timeout_check_interval=2,
        max_retired_jobs=3,
        seconds_before_free=4.5,
        history_days=6,
        scheduling=Scheduling(policy="fifo"),
        health=Health(strikes=7),
        hardware=Hardware(stagger_ms=9),
        limits=Limits(connections=8),
    )


def test_a_single_board(folder: Path) -> None:
    expected = Machine.single_board("one", bmp_ip="bmp", spinnaker_ip="board")
    assert read_toml(file(folder, SINGLE)).machines == (expected,)


def test_a_machine_with_everything_told(folder: Path) -> None:
    expected = Machine(
        "m",
        {"a", "b"},
        1,
        1,
        {(0, 0, 2)},
        {(0, 0, 0, Links.north_east)},
        {(0, 0, 0): (1, 2, 3), (0, 0, 1): (1, 2, 4)},
        {(1, 2): "bmp"},
        {(0, 0, 0): "board-0", (0, 0, 1): "board-1"},
    )
    assert read_toml(file(folder, EXPLICIT)).machines == (expected,)


def test_a_machine_with_standard_addresses_and_a_wiring_file_beside_the_config(folder: Path) -> None:
    locations = {(0, 0, z): (0, 0, z) for z in range(3)}
    expected = Machine.with_standard_ips(
        "m", board_locations=locations, base_ip="10.0.0.0", board_stride="0.0.0.2", spinnaker_offset="0.0.1.0"
    )
    text = STANDARD + 'board_stride = "0.0.0.2"\nspinnaker_offset = "0.0.1.0"\n'
    assert read_toml(file(folder, text)).machines == (expected,)


def test_machines_keep_the_order_of_the_file(folder: Path) -> None:
    assert [machine.name for machine in read_toml(file(folder, STANDARD + SINGLE)).machines] == ["m", "one"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port = = 1", ", line 1: not TOML: .*column 8"),
        ("\nport = " + "[" * 3000, ", line 2: it is nested too deeply"),
        ("a = 1\na = 2", ", line 2: not TOML: "),
        ("a = 1\n[[a", ", line 2: not TOML: .* and the file ends"),
        ("\nport = " + "9" * 5000, ", line 2: not TOML: a number has thousands of digits"),
        ("machine = [1]", ", line 1: machine[0]: Expected `table`"),
        (
            SINGLE.replace("[[machine]]", " [ machine ]  # mine"),
            ", line 2: machine: it is a list of tables, so each one begins with [[machine]], not with [machine]$",
        ),
        (
            STANDARD.replace('board_locations = "wiring.csv"', "[machine.board_locations]"),
            r", line \d+: machine 'm': machine[0].board_locations: .*begins with [[machine.board_locations]], not with",
        ),
        (
            SINGLE + "[[limits]]\nconnections = 1\n",
            r", line \d+: limits: it is one table, so it begins with [limits], not with [[limits]]$",
        ),
        ("machine = {}", ", line 1: machine: Expected `array`, got `table`"),
        (STANDARD.replace("wiring", "wir\\u0000ing"), ", line 2: machine 'm': board_locations: .*null byte"),
        ("\nprot = 1", ", line 2: prot: there is no such key"),
        ("\n\nport = 'x'", ", line 3: port: Expected `integer`, got `string`"),
        ("ip = ''\n[limits]\n\nconnections = 0\n", ", line 4: limits.connections: Expected `integer` >= 1"),
        ("[limits]\nconnection = 1\n", ", line 2: limits.connection: there is no such key"),
        ("[health]\n[limit]\n", ", line 2: limit: there is no such key"),
        (
            "[scheduling]\npolicy = 'best'\n",
            ", line 2: scheduling.policy: Invalid enum value 'best'; it is one of .*fifo",
        ),
        ("[web]\nmax_role = 'root'\n", ", line 2: web.max_role: .*; it is one of reader, user, operator, admin$"),
        ('[web]\nproxies = "10.0.0.0/8"\n', """, line 2: web.proxies: .*; write ["10.0.0.0/8"]$"""),
        ("limits = { connections = 0 }", ", line 1: limits.connections: Expected"),
        (SINGLE.replace("bmp_ip", "bmp"), ", line 5: machine 'one': machine[0].bmp: there is no such key"),
        (SINGLE.replace('bmp_ip = "bmp"', ""), ", line 2: machine 'one': machine[0]: the key `bmp_ip` is missing"),
        (SINGLE.replace("single_board", "board"), ", line 3: machine 'one': machine[0].form: Invalid value 'board'"),
        (SINGLE.replace("single_board", "board"), ".*it is one of explicit, single_board, standard_ips"),
        (
            SINGLE.replace("spinnaker_ip", "spinaker_ip"),
            ".*spinaker_ip: there is no such key; is `spinnaker_ip` meant?",
        ),
        ("[[machine]]\nform = 'explicit'\n", r", line 1: machine[0]: the key `name` is missing"),
        (
            SINGLE + EXPLICIT.replace("[1, 2, 4]", "[1, 2]"),
            ", line 16: machine 'm': machine[1].board_locations[1].location: Expected `array` of length 3",
        ),
        (EXPLICIT.replace("north_east", "up"), ", line 9: machine 'm': machine[0].dead_links[0][3]: Invalid enum"),
        (EXPLICIT.replace("north_east", "up"), ".*it is one of east, north_east, north, west, south_west, south$"),
        (EXPLICIT.replace('"north_east"', "2"), ".*got `integer`; it is one of east, north_east, north"),
        (SINGLE + 'tags = "default"\n', """, line 7: .*tags: Expected `array`, got `string`; write ["default"]$"""),
        ('[access]\nclients = "10.0.0.0/8"\n', """, line 2: access.clients: .*; write ["10.0.0.0/8"]$"""),
        (SINGLE + "tags = [1]\n", ", line 7: .*tags[0]: Expected `string`, got `integer`$"),
        (STANDARD + "width = 1.5\n", ", line 7: .*width: Expected `integer`, got `float`$"),
        ('\nlimits.connections = "a"\n', ", line 2: limits.connections: Expected `integer`"),
        ("\nlimits . 'connections' = 'a'\n", ", line 2: limits.connections: Expected `integer`"),
        ("\n\"port\" = 'a'\n", ", line 2: port: Expected `integer`"),
        ("\n['limits']\nconnections = 'a'\n", ", line 3: limits.connections: Expected `integer`"),
        ("\nport.a.b = 1\n", ", line 2: port: Expected `integer`, got `table`"),
        (SINGLE + "base_ip = '10.0.0.0'\n", ", line 7: .*base_ip: there is no such key here$"),
        ('"\\u001b[31m" = 1\n', r": \\x1b[31m: there is no such key$"),
        ('"a\\nb" = 1\n', r": a\\nb: there is no such key$"),
        ("x" * 5000 + " = 1\n", r".{,200}: there is no such key$"),
        (SINGLE.replace('"one"', "1979-05-27"), r", line 4: machine[0].name: Expected `string`, got `date`$"),
        ("scheduling = 3", ", line 1: scheduling: Expected `table`, got `integer`$"),
        (
            (SINGLE + SINGLE).replace("[[machine]]", "[machine]"),
            ", line 8: each machine begins with [[machine]], not with [machine]$",
        ),
        (SINGLE + SINGLE.replace("[[machine]]", "[ machine ]"), ", line 8: each machine begins with [[machine]]"),
        (SINGLE.replace('"one"', '"o\\u0000e"'), ", line 2: a machine's name must have no control characters"),
        (SINGLE.replace('"one"', '"o\\u202Ee"'), ", line 2: a machine's name must have no control characters"),
        (SINGLE + 'tags = ["a\\u001b[2J"]', ", line 2: machine 'one': tag .* must have no control characters"),
        (SINGLE.replace('"one"', '"o\0e"'), ", line 4: it has a NUL character"),
        (
            SINGLE.replace('"bmp"', '"bmp:17893"'),
            ", line 2: machine 'one': bmp_ips of (0, 0) is 'bmp:17893': .*without a port",
        ),
        (
            SINGLE + SINGLE.replace("one", "two").replace('"bmp"', '"BMP."'),
            ", line 8: BMP address 'BMP.' is used, as 'bmp'",
        ),
        ('machine = []\nip = "10.0.0.1:22244"', ", line 2: .*ip=.*without a port"),
        ("seconds_before_free = inf", ", line 1: seconds_before_free: Expected `float` <= "),
        ("seconds_before_free = nan", ", line 1: seconds_before_free: Expected `float` >= "),
        (
            EXPLICIT.replace("[1, 2, 4]", "[1, 2, 24]"),
            ", line 2: .*board 24; the boards of a frame are numbered from 0 to 23",
        ),
        (
            EXPLICIT.replace("[1, 2, 4]", "[1, 2, -1]"),
            ", line 2: .*board -1; the boards of a frame are numbered from 0 to 23",
        ),
        (
            EXPLICIT.replace("[{ frame = [1, 2]", f"[{{ frame = [0, {2**70}], host = 'c' }}, {{ frame = [1, 2]"),
            ", line 2: machine 'm': a key of bmp_ips must be two whole numbers (cabinet, frame), each up to",
        ),
        (
            EXPLICIT.replace("[0, 0, 0, ", f"[{2**64}, 0, 0, "),
            ", line 2: machine 'm': board of a dead link must be three",
        ),
        (
            EXPLICIT.replace("[1, 2, 4]", "[1, 2, 3]"),
            ", line 2: machine 'm': boards (0, 0, 0) and (0, 0, 1) are both at cabinet 1, frame 2, board 3",
        ),
        (
            EXPLICIT.replace("board = [0, 0, 1], location", "board = [0, 0, 0], location"),
            ", line 2: machine 'm': board_locations: board (0, 0, 0) is listed twice",
        ),
        (SINGLE + EXPLICIT.replace("[[0, 0, 2]]", "[[5, 0, 0]]"), ", line 8: machine 'm': dead board (5, 0, 0)"),
        (STANDARD.replace("wiring", "none"), ", line 2: machine 'm': board_locations: .*No such file.*none.csv"),
        (STANDARD.replace("10.0.0.0", "10.0.0"), ", line 2: machine 'm': base_ip must be an IPv4 address"),
        (SINGLE + SINGLE, ", line 8: machine name 'one' is used by machine 1 of the list and by machine 2 of the list"),
    ],
)
def test_an_error_tells_file_line_machine_and_key(folder: Path, text: str, told: str) -> None:
    pattern = "^.*spalloc\\.toml" + told.replace("[", r"\[").replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ConfigurationError, match=pattern):
        read_toml(file(folder, text))


def test_a_byte_order_mark_is_no_error(folder: Path) -> None:
    path = file(folder, "\ufeff" + SINGLE)
    assert [machine.name for machine in read_toml(path).machines] == ["one"]


@pytest.mark.parametrize(("codec", "told"), [("utf-16", "line 1: it is in UTF-16"), ("latin-1", "line 7: not a text")])
def test_a_text_in_another_encoding_is_an_error_with_its_line(folder: Path, codec: str, told: str) -> None:
    path = folder / "spalloc.toml"
    path.write_bytes((SINGLE + "# \u00e9\n").encode(codec))
    with pytest.raises(ConfigurationError, match=rf"spalloc\.toml, {told}"):
        read_toml(path)


def test_a_wiring_file_with_an_endless_field_is_an_error_that_names_both_files(folder: Path) -> None:
    (folder / "wiring.csv").write_text(f"cabinet,frame,board,x,y\n0,0,0,{'1' * 200_000},1\n")
    with pytest.raises(
        ConfigurationError, match=r"spalloc\.toml, line 2: machine 'm': .*wiring\.csv, line 2: not a CSV: field"
    ):
        read_toml(file(folder, STANDARD))


def test_an_error_in_the_wiring_file_names_machine_and_both_files(folder: Path) -> None:
    (folder / "wiring.csv").write_text("cabinet,frame,board,x,y\n0,0,0,1,1\n")
    with pytest.raises(ConfigurationError, match=r"spalloc\.toml, line 2: machine 'm': .*wiring\.csv, line 2: chip"):
        read_toml(file(folder, STANDARD))
