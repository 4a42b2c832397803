"""Config files: the Python form, what refuses it, and what a reload would change."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from spalloc_server import coordinates
from spalloc_server.config.compare import compare
from spalloc_server.config.load import load
from spalloc_server.config.machine import Machine
from spalloc_server.config.options import Health, Limits, Web
from spalloc_server.config.settings import Configuration
from spalloc_server.errors import ConfigurationError
from spalloc_server.links import Links

EXAMPLES = Path(__file__).parents[2] / "examples"


def script(folder: Path, text: str, mode: int = 0o644) -> Path:
    path = folder / "spalloc.conf"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "name", sorted(path.name for path in EXAMPLES.glob("*.toml") if "[[machine]]" in path.read_text())
)
def test_every_example_describes_machines(name: str) -> None:
    configuration = load(EXAMPLES / name)
    assert all(machine.live_boards for machine in configuration.machines)
    assert configuration.machines


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in EXAMPLES.glob("*.py") if path.with_suffix(".toml").exists())
)
def test_both_forms_of_an_example_are_equal(tmp_path: Path, name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    for wiring in EXAMPLES.glob("*.csv"):
        (tmp_path / wiring.name).write_bytes(wiring.read_bytes())
    assert load(script(tmp_path, text)) == load(EXAMPLES / f"{name}.toml")


@pytest.mark.parametrize("name", ["frame-24", "million-core"])
def test_an_example_finds_its_wiring_where_file_is_another_as_in_7_0_0(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["spalloc_server", "--port", "22244", str(EXAMPLES / f"{name}.py")])
    text = (EXAMPLES / f"{name}.py").read_text()
    assert load(script(tmp_path, f"__file__ = {coordinates.__file__!r}\n{text}")) == load(EXAMPLES / f"{name}.toml")


def test_simulated_machines_are_on_loopback_addresses() -> None:
    for path in EXAMPLES.glob("simulated-*.toml"):
        (machine,) = load(path).machines
        assert all(host.startswith("127.") for host in [*machine.bmp_ips.values(), *machine.spinnaker_ips.values()])


def test_a_script_may_import_what_it_finds_in_its_namespace(tmp_path: Path) -> None:
    bare = """
link = Links.north.opposite
assert board_to_chip(*chip_to_board(8, 4, 12, 12)) == (8, 4)
assert link_to_vector[0, Links.north] and WrapAround.both and board_down_link and triad_dimensions_to_chips
machine = Machine.single_board("m", set(["default"]), "bmp", "board")
configuration = Configuration([machine], 22244)
"""
    imports = """
from spalloc_server.configuration import Configuration, Machine, board_locations_from_spinner
from spalloc_server.coordinates import (
    WrapAround, board_down_link, board_to_chip, chip_to_board, link_to_vector, triad_dimensions_to_chips
)
from spalloc_server.links import Links
"""
    expected = Configuration([Machine.single_board("m", bmp_ip="bmp", spinnaker_ip="board")])
    assert load(script(tmp_path, bare)) == load(script(tmp_path, imports + bare)) == expected


def test_the_last_binding_counts_so_that_an_appended_line_drains_everything(tmp_path: Path) -> None:
    path = script(tmp_path, 'configuration = Configuration([Machine.single_board("m", set(), "a", "b")])\n')
    with path.open("a") as file:
        file.write("configuration = Configuration()\n")
    assert load(path) == Configuration()


def test_functions_and_comprehensions_see_the_names_of_the_script(tmp_path: Path) -> None:
    text = """
hosts = ["a", "b"]
def board(name):
    return Machine.single_board(name, bmp_ip=name + "-bmp", spinnaker_ip=name)
configuration = Configuration([board(host) for host in hosts if host in hosts])
"""
    assert [machine.name for machine in load(script(tmp_path, text)).machines] == ["a", "b"]


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_script_that_others_may_write_is_refused_unless_allowed(tmp_path: Path, mode: int) -> None:
    path = script(tmp_path, "configuration = Configuration()", mode)
    with pytest.raises(ConfigurationError, match=r"not executed.*chmod go-w .*spalloc\.conf"):
        load(path)
    assert load(path, allow_unsafe=True) == Configuration()


def test_a_declarative_file_that_others_may_write_is_read(tmp_path: Path) -> None:
    path = tmp_path / "spalloc.toml"
    path.write_text("machine = []\nport = 1")
    path.chmod(0o666)
    assert load(path) == Configuration(port=1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n\nx = (\n", "line 3: SyntaxError: '.' was never closed"),
        ("x = 1\nx = y\n", "line 2: NameError: name 'y' is not defined"),
        ("def f():\n    return 1 / 0\n\nf()\n", "line 2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit('no')\n", "line 2: SystemExit: no"),
        (
            'm = Machine("m", board_locations={(0, 0, 0): (0, 0, 0)})\n',
            r"line 1: machine 'm': live board \(0, 0, 1\), \(0, 0, 2\) has no location",
        ),
        ("\nboard_locations_from_spinner('/nowhere.csv')\n", "line 2: FileNotFoundError: .*/nowhere.csv"),
        ("x = 1\n", "binds no `configuration`"),
        ("configuration = []\n", "to a list; it must be a Configuration"),
        ("configuration = Configuration(prot=1)\n", "line 1: TypeError: .*prot"),
        ("x = 1\n\0", r"line 2: it has a NUL character"),
        ("x = 1\nraise KeyboardInterrupt\n", "line 2: KeyboardInterrupt$"),
        ("x = 1\nraise GeneratorExit\n", "line 2: GeneratorExit$"),
        ("raise ValueError('a\\n\\nb')\n", "line 1: ValueError: a b$"),
        ("raise ValueError('a\\x1b[31m\\u202e')\n", r"line 1: ValueError: a\\x1b\[31m\\u202e$"),
        ("class Bad(Exception):\n    def __str__(self): 1 / 0\nraise Bad\n", "line 3: Bad$"),
        ("configuration = Configuration(max_retired_jobs=None)\n", "line 1: .*Expected `int`, got `None`"),
        ("Scheduling(policy='best')\n", "line 1: .*it is one of 'backfill', 'fifo'"),
        (
            "Machine('m', dead_boards={(0, 0, 1), (0, 0, 2)}, dead_links={(0, 0, 0, 'north')})\n",
            "line 1: machine 'm': dead link must be .*Links.east, Links.north_east, .*Links.south as its link, not",
        ),
    ],
)
def test_a_script_that_fails_is_one_error_with_file_and_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        load(script(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path / "spalloc.conf"))
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml: cannot be read: No such file or directory"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"port = 1 # \xff")
    with pytest.raises(ConfigurationError, match=r"binary\.toml, line 1: not a text in UTF-8: .* at byte 11"):
        load(binary)


def test_a_script_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert load(script(tmp_path, "\ufeffconfiguration = Configuration(port=1)\n")) == Configuration(port=1)


SETUP = """
m = Machine.single_board("m", bmp_ip="bmp", spinnaker_ip="board")
n = Machine.single_board("n", bmp_ip="bmp-n", spinnaker_ip="board-n")
c = configuration = Configuration([m], 22244, "", 2.0, 5)
"""

IMPORTS = """
from .links import Links as Same
from .configuration import Machine as Likewise
assert Same is Links and Likewise is Machine and issubclass(Links, IntEnum)
pair = namedtuple("pair", "a b")(*chain([m], [n]))
assert re.match(".", "x") and csv.reader
configuration = Configuration(list(pair), *c[1:])
"""

COMPARISONS = """
assert [m] == c.machines == [m] != [n] and m == m._replace() != n
assert m[0] == m.name == "m" and len(m) == 9 and len(c) == 6
assert m <= n > m >= m and c.machines[:1] == [m] and c.machines[1:] + [n] == [n]
assert Machine._make(m) == m and m.tags | {"x"} == {"default", "x"} and Configuration._make(c) == c
configuration = c._replace(machines=[m, n])
"""

UNPACKED = """
machines, port, ip, interval, retired, rest = c
configuration = Configuration(machines + [n], port, ip, interval, retired, rest)
"""


@pytest.mark.parametrize(
    "text",
    [
        "configuration = c._replace(machines=[m, n])",
        "configuration = Configuration([m, m._replace(**n._asdict())], *c[1:])",
        "configuration = Configuration(c.machines + [n], *c[1:])",
        "configuration = Configuration([m] + c._replace(machines=[n]).machines, *c[1:])",
        "configuration = Configuration([*c.machines, n], *c[1:])",
        "configuration = eval(repr(c._replace(machines=[m, n])))",
        "configuration = Configuration(sorted([n, m]), *tuple(c)[1:])",
        "configuration = Configuration((each for each in (m, n)), *c[1:])",
        "configuration = Configuration([m, n], None, '', 2.0, 5e0)._replace(port=22244)",
        UNPACKED,
        COMPARISONS,
        IMPORTS,
    ],
    ids=range(12),
)
def test_what_config_files_do_with_the_published_objects_works(tmp_path: Path, text: str) -> None:
    plain = "configuration = Configuration([m, n], 22244, '', 2.0, 5)"
    assert load(script(tmp_path, SETUP + text + "\n")) == load(script(tmp_path, SETUP + plain))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("m.spinnaker_ips[(0, 0, 0)] = 'x'", r"line 5: a machine cannot be changed.*machine\._replace\(spinnaker_ips="),
        ("m.bmp_ips.update({(0, 0): 'x'})", "line 5: a machine cannot be changed"),
        ("m.board_locations.pop((0, 0, 0))", "line 5: a machine cannot be changed"),
        ("del m.board_locations[(0, 0, 0)]", "line 5: a machine cannot be changed"),
        (
            "configuration.machines.append(n)",
            r"line 5: .*_replace\(machines=\[\*configuration.machines",
        ),
        ("configuration.machines[0] = n", "line 5: a configuration cannot be changed"),
        ("configuration.machines.sort()", "line 5: a configuration cannot be changed"),
        ("m.dead_boards.add((0, 0, 1))", r"line 5: a machine cannot be changed.*_replace\(dead_boards="),
        ("m.dead_links.discard((0, 0, 0, Links.north))", "line 5: a machine cannot be changed"),
        ("m.tags.update({'x'})", "line 5: a machine cannot be changed"),
        ("m.tags |= {'x'}", "line 5: a machine cannot be changed"),
        ("configuration.port = 1", "line 5: FrozenInstanceError"),
    ],
)
def test_what_cannot_be_changed_is_told_with_what_to_write_instead(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        load(script(tmp_path, SETUP + text + "\n"))


def test_no_machines_may_be_none(tmp_path: Path) -> None:
    assert load(script(tmp_path, "configuration = Configuration(machines=None)")) == Configuration()


def triad(name: str, **changes: Any) -> Machine:
    parts: dict[str, Any] = {
        "board_locations": {(0, 0, z): (0, 0, z) for z in range(3)},
        "bmp_ips": {(0, 0): f"{name}-bmp"},
        "spinnaker_ips": {(0, 0, z): f"{name}-{z}" for z in range(3)},
    }
    return Machine(name, **{**parts, **changes})


def test_equal_configurations_compare_as_nothing() -> None:
    comparison = compare(Configuration([triad("a")]), Configuration([triad("a")]))
    assert not comparison
    assert comparison.lines() == []


def test_a_comparison_tells_machine_by_machine_what_a_reload_does() -> None:
    old = Configuration([triad("gone"), triad("a", dead_boards={(0, 0, 1)}), triad("moved"), triad("same")])
    new = Configuration(
        [
            triad("same"),
            triad("a", dead_boards={(0, 0, 0), (0, 0, 2)}, dead_links={(0, 0, 1, Links.east)}, tags={"x", "b"}),
            triad("moved", bmp_ips={(0, 0): "elsewhere"}, spinnaker_ips={(0, 0, z): f"n-{z}" for z in range(3)}),
            triad("new"),
        ],
        port=1,
        limits=Limits(connections=7),
        health=Health(strikes=9),
    )
    comparison = compare(old, new)
    assert (comparison.added, comparison.removed) == (("new",), ("gone",))
    assert list(comparison.replaced) == ["moved"]
    assert list(comparison.changed) == ["a"]
    assert comparison.order == ("same", "a", "moved")
    assert comparison.lines() == [
        "machine gone: removed",
        "machine moved: replaced (1 BMP addresses differ, 3 board addresses differ)",
        "machine a: dead boards +2 -1, dead links +1 -0, tags {default} -> {b, x}",
        "machine new: added",
        "machines reordered: same, a, moved",
        "port: 22244 -> 1",
        "health.strikes: 3 -> 9",
        "limits.connections: 16384 -> 7",
    ]


def test_a_comparison_tells_that_http_comes_and_goes() -> None:
    without, with_http = Configuration([]), Configuration([], web=Web(port=7))
    assert compare(without, with_http).lines() == ["web: added"]
    assert compare(with_http, without).lines() == ["web: removed"]
    assert compare(with_http, Configuration([], web=Web(port=8))).lines() == ["web.port: 7 -> 8"]


def test_a_comparison_tells_no_secret() -> None:
    first, second = (Configuration([], web=Web(emergency_code=code)) for code in ("tapir", "okapi"))
    assert compare(first, second).lines() == ["web.emergency_code: changed"]


def test_a_machine_of_another_size_is_replaced() -> None:
    larger = triad("a", width=1, height=2, dead_boards={(0, 1, z) for z in range(3)})
    comparison = compare(Configuration([triad("a")]), Configuration([larger]))
    assert comparison.lines() == ["machine a: replaced (1 x 1 -> 1 x 2 triads)"]


def test_a_renamed_machine_is_told_as_such_with_what_else_differs() -> None:
    a, b = triad("a"), triad("b")
    both = Configuration([a, b])
    assert compare(both, Configuration([a, b._replace(name="c", tags={"x"})])).lines() == [
        "machine b: renamed to c",
        "machine c: tags {default} -> {x}",
    ]
    swapped = Configuration([a._replace(name="b"), b._replace(name="a")])
    assert compare(both, swapped).lines()[:2] == ["machine a: renamed to b", "machine b: renamed to a"]
    assert not compare(both, swapped).replaced
    assert compare(both, Configuration([a._replace(name="b")])).lines() == [
        "machine b: removed",
        "machine a: renamed to b",
    ]
    assert compare(both, Configuration([triad("n")._replace(name="a"), a._replace(name="c"), b])).lines() == [
        "machine a: renamed to c",
        "machine a: added",
    ]


def test_a_machine_that_comes_or_goes_is_no_change_of_order() -> None:
    assert compare(Configuration([triad("a"), triad("b")]), Configuration([triad("c"), triad("b")])).order is None


@pytest.mark.parametrize("name", ["config.toml", "config.py", "wiring.csv"])
def test_a_fifo_that_nobody_writes_to_is_not_waited_for(tmp_path: Path, name: str) -> None:
    config = tmp_path / ("config.py" if name == "config.py" else "config.toml")
    config.write_text("[[machine]]\nform='standard_ips'\nname='m'\nboard_locations='wiring.csv'\n")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name, 0o600)
    with pytest.raises(ConfigurationError, match=r"names no machines|binds no|no column"):
        load(config)


def test_a_file_without_an_end_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"/dev/zero: it has more than \d+ bytes"):
        load("/dev/zero", allow_unsafe=True)


TOML = (EXAMPLES / "frame-24.toml").read_bytes()
WIRING = (EXAMPLES / "spinner-24.csv").read_bytes()
ODD = [b"\0", b"\xef\xbb\xbf", b"\xff", b"-1", b"24", b"9" * 5000, b"1e999"]
ODD += [bytes([each]) for each in b"\"'\n\r[]=,\x1b"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


@given(st.booleans(), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 30), st.sampled_from(ODD)), max_size=4))
def test_whatever_is_wrong_with_a_file_is_one_line_that_begins_with_its_name(
    place: Path, wiring: bool, edits: list[tuple[int, int, bytes]]
) -> None:
    content = WIRING if wiring else TOML
    for at, length, odd in edits:
        content = content[: at % len(content)] + odd + content[at % len(content) + length :]
    (place / "spinner-24.csv").write_bytes(content if wiring else WIRING)
    config = place / "config.toml"
    config.write_bytes(TOML if wiring else content)
    told = ""
    try:
        load(config)
    except ConfigurationError as error:
        told = str(error)
    assert told.startswith(str(config) if told else "")
    assert told == "" or told.isprintable()
    assert len(told) < 1000
    assert re.search(r"config\.toml, line \d+: ", told) or not (told and wiring)
