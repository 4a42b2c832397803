"""Machine definitions of the Java server: what they become, in whichever spelling, and what is told of bad ones."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from spalloc_server.config.definitions import MAX_PROBLEMS, names_in, read_definitions, to_toml
from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.config.toml import read_toml
from spalloc_server.coordinates import Board, board_down_link
from spalloc_server.errors import ConfigurationError
from spalloc_server.links import Links

DATA = Path(__file__).parents[1] / "data" / "definitions"
SINGLE = (DATA / "single-board-example.json").read_text()
THREE = (DATA / "three-board-example.json").read_text()
LITTLE = (DATA / "little.json").read_text()
SPELLINGS = {
    Links.east: ["east", "EAST", "East"],
    Links.north_east: ["northEast", "north_east", "NORTH_EAST", "north-east"],
    Links.north: ["north", "NORTH"],
    Links.west: ["west", "WEST"],
    Links.south_west: ["southWest", "south_west", "SOUTH_WEST"],
    Links.south: ["south", "SOUTH"],
}

# -------------------------------------------------------------------- what they become


def live_links(machine: Machine) -> int:
    """Links between live boards that neither end says to be dead, counted as the Java server does."""
    found = set()
    for board in machine.live_boards:
        for link in Links:
            *other, _ = board_down_link(*board, link, machine.width, machine.height)
            ends = {(*board, link), (*other, link.opposite)}
            if tuple(other) in machine.live_boards and not ends & machine.dead_links:
                found.add(frozenset(ends))
    return len(found)


def only(text: str) -> Machine:
    (machine,) = read_definitions(text).machines
    return machine


def test_a_single_board() -> None:
    assert read_definitions(SINGLE) == Configuration(
        [Machine.single_board("my-board", {"single"}, "192.168.0.2", "192.168.0.3")], ip="127.0.0.1"
    )
    assert live_links(only(SINGLE)) == 0


def test_three_boards_have_nine_links() -> None:
    machine = only(THREE)
    assert machine.name == "SpiNNaker3board"
    assert machine.tags == {"machine-room", "default"}
    assert machine.board_locations == {(0, 0, 0): (0, 0, 0), (0, 0, 1): (0, 0, 2), (0, 0, 2): (0, 0, 1)}
    assert machine.bmp_ips == {(0, 0): "10.11.193.0"}
    assert live_links(machine) == 9


def test_twelve_boards_have_36_links_less_those_of_a_dead_board_and_a_dead_link() -> None:
    machine = only(LITTLE)
    assert machine.dead_boards == {(1, 1, 2)}
    assert machine.dead_links == {(0, 0, 0, Links.north), (0, 0, 2, Links.south)}
    assert live_links(machine) == 36 - 6 - 1
    assert live_links(machine._replace(dead_boards=set(), dead_links=set())) == 36


def test_settings_that_are_not_given_have_this_servers_defaults() -> None:
    assert read_definitions('{"machines": []}') == Configuration()
    assert read_definitions('{"machines": [], "ip": null}') == Configuration()
    given = '"port": 1, "ip": "10.0.0.1", "timeout-check-interval": 1, "max-retired-jobs": 7, "seconds-before-free": 3'
    assert read_definitions(f'{{"machines": [], {given}}}') == Configuration([], 1, "10.0.0.1", 1.0, 7, 3)


coordinates = st.integers(0, 2)
blanks = st.sampled_from(["", " "])


def key_of(draw: st.DrawFn, letters: str, numbers: tuple[int, ...]) -> str:
    """Coordinates as a text."""
    parts = (f"{draw(blanks)}{letter}:{draw(blanks)}{number}" for letter, number in zip(letters, numbers, strict=True))
    return f"[{','.join(parts)}]"


def value_of(draw: st.DrawFn, letters: str, numbers: tuple[int, ...]) -> Any:
    """The same in any spelling."""
    listed, named = list(numbers), dict(zip(letters, numbers, strict=True))
    return draw(st.sampled_from([listed, named, key_of(draw, letters, numbers)]))


@st.composite
def machines(draw: st.DrawFn) -> tuple[Machine, dict[str, Any]]:
    """A machine, and its definition in some spelling."""
    number = draw(st.integers(0, 200))
    width, height = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    every = [(x, y, z) for x in range(width) for y in range(height) for z in range(3)]
    dead = draw(st.sets(st.sampled_from(every)))
    nowhere = draw(st.sets(st.sampled_from(sorted(dead)))) if dead else set()
    places = {board: (1, i // 24, i % 24) for i, board in enumerate(draw(st.permutations(every)))}
    places = {board: place for board, place in places.items() if board not in nowhere}
    bmps = {(1, frame): f"10.{number}.{frame}.0" for frame in range(2)}
    hosts = {board: f"10.{number}.{frame}.{8 * i + 1}" for board, (_, frame, i) in places.items()}
    links = draw(st.dictionaries(st.sampled_from(every), st.sets(st.sampled_from(Links), min_size=1), max_size=3))
    tags = draw(st.sets(st.text("abcé-\U0001f600\"\\'", min_size=1, max_size=4), max_size=2))
    name = f"m{number}" + draw(st.text('xé"\\', max_size=3))
    dead_links = {(*board, link) for board, some in links.items() for link in some}
    return Machine(name, tags, width, height, dead, dead_links, places, bmps, hosts), {
        "name": name,
        "tags": sorted(tags),
        "width": width,
        "height": height,
        "dead-boards": [value_of(draw, "xyz", board) for board in dead],
        "dead-links": {
            key_of(draw, "xyz", board): [draw(st.sampled_from(SPELLINGS[link])) for link in some]
            for board, some in links.items()
        },
        "board-locations": {
            key_of(draw, "xyz", board): value_of(draw, "cfb", place) for board, place in places.items()
        },
        "bmp-ips": {key_of(draw, "cf", frame): host for frame, host in bmps.items()},
        "spinnaker-ips": {key_of(draw, "xyz", board): host for board, host in hosts.items()},
    }


@given(st.lists(machines(), max_size=3, unique_by=lambda each: each[1]["name"].partition("x")[0][:4]), st.booleans())
def test_every_machine_in_every_spelling_is_the_same_machine_and_so_is_its_toml(
    some: list[tuple[Machine, dict[str, Any]]], ascii_only: bool
) -> None:
    by_bmp = {machine.bmp_ips[1, 0]: (machine, definition) for machine, definition in some}
    expected = Configuration([machine for machine, _ in by_bmp.values()], 80, "127.0.0.1", 0.125)
    file = {"machines": [definition for _, definition in by_bmp.values()], "port": 80, "ip": "127.0.0.1"}
    read = read_definitions(json.dumps({**file, "timeout-check-interval": 0.125}, ensure_ascii=ascii_only))
    assert read == expected
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hall.toml"
        path.write_text(to_toml(read), encoding="utf-8")
        again = read_toml(path)
    assert again == expected
    assert [machine.hardware for machine in again.machines] == [machine.hardware for machine in expected.machines]


def test_the_toml_says_no_more_than_it_must() -> None:
    assert to_toml(Configuration()) == "machine = []\n"
    assert to_toml(read_definitions(SINGLE)).splitlines() == [
        'ip = "127.0.0.1"',
        "",
        "[[machine]]",
        'form = "explicit"',
        'name = "my-board"',
        'tags = ["single"]',
        "width = 1",
        "height = 1",
        "dead_boards = [[0,0,1],[0,0,2]]",
        "dead_links = []",
        "board_locations = [",
        "    {board = [0,0,0], location = [0,0,0]},",
        "]",
        "bmp_ips = [",
        '    {frame = [0,0], host = "192.168.0.2"},',
        "]",
        "spinnaker_ips = [",
        '    {board = [0,0,0], host = "192.168.0.3"},',
        "]",
    ]


def test_the_machines_of_a_file_are_named_however_bad_it_is_otherwise() -> None:
    assert names_in(LITTLE) == ["little"]
    assert names_in('{"machines": [{"name": "a", "width": "?"}, {"name": "b"}], "prot": 1}') == ["a", "b"]
    for text in (
        "",
        "[",
        "[" * 100_000,
        "{}",
        '{"machines": [1]}',
        '{"machines": [{"name": 7}]}',
        '{"machines": "\ud800"}',
    ):
        assert names_in(text) == []
    assert [len(name) for name in names_in(json.dumps({"machines": [{"name": "x" * 1000}] * 1000}))] == [100] * 20


# -------------------------------------------------------------------- bad ones


def told_of(text: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        read_definitions(text)
    return str(error.value)


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    """The file of the little machine, changed."""
    file = json.loads(LITTLE)
    change(file)
    return json.dumps(file)


def machine_changed(**values: Any) -> str:
    """The same with other values of the machine's keys; None takes one out."""
    file = json.loads(LITTLE)
    for name, value in values.items():
        file["machines"][0][name.replace("_", "-")] = value
        if value is None:
            del file["machines"][0][name.replace("_", "-")]
    return json.dumps(file)


def entry_changed(field: str, key: str, value: Any) -> str:
    """The same with another value of one entry."""
    return changed(lambda file: file["machines"][0][field].__setitem__(key, value))


IPV4 = "four numbers from 0 to 255, without leading zeros, such as 192.168.0.1"
PLACE = """must be as {"c": 0, "f": 0, "b": 0}, [0, 0, 0] or "[c:0,f:0,b:0]", of whole numbers from 0"""
A_BOARD = """must be as {"x": 0, "y": 0, "z": 0}, [0, 0, 0] or "[x:0,y:0,z:0]", of whole numbers from 0"""
KEY = 'which must be as "[x:0,y:0,z:0]", of whole numbers from 0'
LAST = "[x:1,y:0,z:2]"
WORD = "must be a text without blanks and braces"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            (DATA / "bad-board-example.json").read_text(),
            f"the file: ip: '1.2.3.4.5.not-an-ip' is a bad IPv4 address: it is {IPV4}, or is empty",
        ),
        ("", "not JSON: Expecting value at line 1, column 1"),
        ('{"machines": []\n', "not JSON: Expecting ',' delimiter at line 2, column 1"),
        ('{"machines": [NaN]}', "not JSON that can be read: NaN is no number"),
        ("[]", "the file must be an object, not []"),
        ('"\ud800"', r"the file must be an object, not '\ud800'"),
        ("{}", "the file: machines is missing, and must be a list of machines"),
        ('{"machines": {}}', "the file: machines is {}, and must be a list of machines"),
        ('{"machines": [7]}', "machine 1 of the list must be an object, not 7"),
        ('{"machines": [], "machines": []}', "the file: the key 'machines' is there twice"),
        ('{"machines": [], "prot": 1}', "the file: there is no key 'prot': is port meant?"),
        (
            '{"machines": [], "q": 1}',
            "the file: there is no key 'q': there are machines, port, ip, timeout-check-interval, max-retired-jobs",
        ),
        ('{"machines": [], "port": 0}', "the file: port is 0, and must be a TCP port, 1 to 65535"),
        ('{"machines": [], "port": 65536}', "the file: port is 65536, and must be a TCP port, 1 to 65535"),
        ('{"machines": [], "port": true}', "the file: port is true, and must be a TCP port, 1 to 65535"),
        ('{"machines": [], "ip": 7}', "the file: ip is 7, and must be an IPv4 address, empty or null"),
        (
            '{"machines": [], "timeout-check-interval": 0}',
            "the file: timeout-check-interval is 0, and must be seconds, more than 0",
        ),
        (
            '{"machines": [], "max-retired-jobs": 0}',
            "the file: max-retired-jobs is 0, and must be a whole number, 1 or more",
        ),
        (
            '{"machines": [], "seconds-before-free": 0.5}',
            "the file: seconds-before-free is 0.5, and must be whole seconds, 1 or more",
        ),
        (machine_changed(name="a b"), f"machine 'a b': name is 'a b', and {WORD}"),
        (machine_changed(name="{a}"), f"machine '{{a}}': name is '{{a}}', and {WORD}"),
        (machine_changed(name=""), f"machine 1 of the list: name is '', and {WORD}"),
        (machine_changed(name="   "), f"machine '   ': name is '   ', and {WORD}"),
        (machine_changed(name="a\n"), r"a machine's name must have no control characters, unlike 'a\n'"),
        (machine_changed(name=None), f"machine 1 of the list: name is missing, and {WORD}"),
        (
            entry_changed("spinnaker-ips", LAST, "127.2.0.1"),
            "address '127.2.0.1' is used by machine 'little' board (0, 0, 0) and by machine 'little' board (1, 0, 2)",
        ),
        (
            changed(lambda file: file["machines"].append(file["machines"][0])),
            "machine name 'little' is used by machine 1 of the list and by machine 2 of the list",
        ),
        (
            changed(lambda file: file["machines"].append({**file["machines"][0], "name": "other"})),
            "BMP address '127.2.0.0' is used by machine 'little' frame (0, 0) and by machine 'other' frame (0, 0)",
        ),
    ],
)
def test_whatever_is_wrong_is_named_with_what_would_be_right(text: str, problem: str) -> None:
    assert problem in told_of(text)
    assert "; and " not in told_of(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (machine_changed(tags=["good", "x y"]), f"tags[1] is 'x y', and {WORD}"),
        (machine_changed(tags=[""]), f"tags[0] is '', and {WORD}"),
        (machine_changed(tags="x"), "tags is 'x', and must be a list of texts without blanks and braces"),
        (machine_changed(width=0), "width is 0, and must be 1 to 21 triads"),
        (machine_changed(height=22), "height is 22, and must be 1 to 21 triads"),
        (machine_changed(height=2.5), "height is 2.5, and must be 1 to 21 triads"),
        (machine_changed(width=None), "width is missing, and must be 1 to 21 triads"),
        (machine_changed(bmp_ip={}), "there is no key 'bmp-ip': is bmp-ips meant?"),
        (machine_changed(bmp_ips=None), "bmp-ips is missing, and must be addresses by frame, as in"),
        (machine_changed(spinnaker_ips=[]), "spinnaker-ips is [], and must be addresses by board, as in"),
        (machine_changed(bmp_ips={}), "frame (cabinet, frame) (0, 0) has boards but no BMP; give its host in bmp-ips"),
        (
            machine_changed(bmp_ips={"[c:0,f:0]": "bmp.example"}),
            f"bmp-ips of [c:0,f:0]: 'bmp.example' is a bad IPv4 address: it is {IPV4}",
        ),
        (
            machine_changed(bmp_ips={"[c:0]": "1.1.1.1"}),
            """bmp-ips has the key '[c:0]', which must be as "[c:0,f:0]", of whole""",
        ),
        (entry_changed("spinnaker-ips", LAST, "1.2.3"), f"spinnaker-ips of {LAST}: '1.2.3' is a bad IPv4 address"),
        (
            entry_changed("spinnaker-ips", LAST, "1.2.3.04"),
            f"spinnaker-ips of {LAST}: '1.2.3.04' is a bad IPv4 address",
        ),
        (entry_changed("spinnaker-ips", LAST, "1.2.3.256"), f"spinnaker-ips of {LAST}: '1.2.3.256' is a bad IPv4"),
        (entry_changed("spinnaker-ips", LAST, None), f"spinnaker-ips of {LAST}: null is a bad IPv4 address"),
        (
            entry_changed("board-locations", LAST, [0, 0, 0]),
            "boards (0, 0, 0) and (1, 0, 2) are both at cabinet 0, frame 0, board 0",
        ),
        (
            entry_changed("board-locations", LAST, [0, 0, 24]),
            "board (1, 0, 2) is at cabinet 0, frame 0, board 24; the boards of a frame are numbered from 0 to 23",
        ),
        (
            entry_changed("board-locations", LAST, {"c": 0, "f": 0}),
            f"""board-locations of {LAST} is {{"c": 0, "f": 0}}, and {PLACE}""",
        ),
        (
            entry_changed("board-locations", LAST, "[c:0,f:0,b:-1]"),
            f"board-locations of {LAST} is '[c:0,f:0,b:-1]', and {PLACE}",
        ),
        (
            entry_changed("board-locations", LAST, [0, 0, True]),
            f"board-locations of {LAST} is [0, 0, true], and {PLACE}",
        ),
        (
            entry_changed("board-locations", "[x:2,y:0,z:0]", [0, 0, 20]),
            "board location given for board (2, 0, 0) is outside the machine, which is 2 x 2 triads",
        ),
        (
            entry_changed("board-locations", "[x:0,y:0,z:3]", [0, 0, 20]),
            "board location given for board (0, 0, 3) is outside the machine",
        ),
        (entry_changed("board-locations", "0,0,0", [0, 0, 20]), f"board-locations has the key '0,0,0', {KEY}"),
        (
            entry_changed("board-locations", "[x:0,y:0, z:0]", [0, 0, 20]),
            "board-locations: '[x:0,y:0, z:0]' is there twice, in another spelling",
        ),
        (LITTLE.replace(f'"{LAST}": {{', '"[x:1,y:0,z:1]": {'), "board-locations: '[x:1,y:0,z:1]' is there twice"),
        (
            LITTLE.replace('{"c": 0, "f": 0, "b": 8}', '{"c": 0, "f": 0, "b": 8, "b": 9}'),
            f"board-locations of {LAST} is",
        ),
        (machine_changed(dead_boards=[[1, 1, 2], [0, 0]]), f"dead-boards[1] is [0, 0], and {A_BOARD}"),
        (
            machine_changed(dead_boards=[[1, 1, 2], [2, 0, 0]]),
            "dead board (2, 0, 0) is outside the machine, which is 2 x 2 triads",
        ),
        (machine_changed(dead_boards={}), "dead-boards is {}, and must be a list of boards"),
        (machine_changed(dead_links=[[0, 0, 0, 1]]), "dead-links is [[0, 0, 0, 1]], and must be links by board, as in"),
        (
            machine_changed(dead_links={"[x:0,y:0,z:0]": "north"}),
            "dead-links of [x:0,y:0,z:0] is 'north', and must be a list of links",
        ),
        (
            machine_changed(dead_links={"[x:0,y:0,z:0]": ["up"]}),
            "dead-links of [x:0,y:0,z:0]: 'up' is no link: it must be east, northEast, north, west, southWest or south",
        ),
        (machine_changed(dead_links={"[x:0,y:0,z:0]": [1]}), "dead-links of [x:0,y:0,z:0]: 1 is no link"),
        (
            machine_changed(dead_links={"[x:9,y:0,z:0]": ["north"]}),
            "dead link of board (9, 0, 0) is outside the machine",
        ),
    ],
)
def test_whatever_is_wrong_with_a_machine_is_named_with_the_machine(text: str, problem: str) -> None:
    assert f"machine 'little': {problem}" in told_of(text)
    assert told_of(text).count("machine 'little': ") == 1


@pytest.mark.parametrize("field", ["board-locations", "spinnaker-ips"])
def test_a_live_board_needs_a_place_and_an_address_and_a_dead_one_does_not(field: str) -> None:
    def without(board: Board) -> str:
        return changed(lambda file: file["machines"][0][field].pop("[x:{},y:{},z:{}]".format(*board)))

    what = "location" if field == "board-locations" else "address"
    told = told_of(without((1, 0, 2)))
    assert told.startswith(f"machine 'little': live board (1, 0, 2) has no {what}; give its ")
    assert f"in {field}, or list it in dead-boards" in told
    assert (1, 1, 2) in only(without((1, 1, 2))).dead_boards


def test_dead_boards_and_links_that_are_listed_twice_are_dead_once() -> None:
    twice = machine_changed(
        dead_boards=[[1, 1, 2], {"x": 1, "y": 1, "z": 2}], dead_links={"[x:0,y:0,z:0]": ["north"] * 2}
    )
    assert only(twice).dead_boards == {(1, 1, 2)}
    assert only(twice).dead_links == {(0, 0, 0, Links.north)}


def test_one_reading_finds_all_that_is_wrong_and_many_problems_are_counted() -> None:
    file = json.loads(LITTLE)
    file["machines"].append({**file["machines"][0], "name": "other", "width": 0, "tags": ["a b"]})
    file["machines"][0] |= {"height": "2", "dead-links": {"[x:0,y:0,z:0]": ["up", "down"]}}
    problems = told_of(json.dumps({**file, "port": 0})).split("; ")
    starts = ["the file: port", "machine 'little': height", *["machine 'little': dead-links"] * 2]
    starts += ["machine 'other': tags[0]", "machine 'other': width"]
    assert all(problem.startswith(start) for problem, start in zip(problems, starts, strict=True))
    several = told_of(machine_changed(dead_boards=[7] * 50))
    assert several.endswith(f"; and {50 - MAX_PROBLEMS} more")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"machines": ' + "[" * 50_000, '{"a":' * 50_000, "9" * 5000])
def test_what_is_nested_too_deeply_or_has_absurd_numbers_is_refused(text: str) -> None:
    assert len(told_of(text)) < 1000


def test_a_text_of_an_error_is_short_whatever_the_file_says() -> None:
    assert len(told_of(machine_changed(name="x y" * 10_000))) < 1000
    assert len(told_of(machine_changed(dead_boards=[list(range(10_000))]))) < 1000
    assert len(told_of(machine_changed(**{"k" * 10_000: 1}))) < 1000
    assert len(told_of(entry_changed("board-locations", "k" * 10_000, 1))) < 1000
