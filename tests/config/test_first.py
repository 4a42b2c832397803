"""Whatever is answered, the first config file is good, and says what was answered."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, strategies as st

from spalloc_server.config.first import LAYOUTS, Answers, bmps_from, frames_of, text_of_first
from spalloc_server.config.load import load
from spalloc_server.config.settings import board_locations_from_spinner
from spalloc_server.coordinates import Board, Location
from spalloc_server.errors import ConfigurationValueError
from tests.pages import ROOT

NAMES = st.text("hall 0'\"\\-_.{}#=[]é☃", min_size=1, max_size=20)
HOST_NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
ADDRESSES = st.integers(0, 2**32 - 2**16).map(lambda number: str(IPv4Address(number)))


@st.composite
def layouts(draw: st.DrawFn) -> Mapping[Board, Location]:
    """Boards of a machine in as many frames as there are triads, or one of the known layouts."""
    if draw(st.booleans()):
        return draw(st.sampled_from(list(LAYOUTS.values())))
    width, height = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    return {(x, y, z): (x, y, z) for x in range(width) for y in range(height) for z in range(3)}


@st.composite
def answers(draw: st.DrawFn) -> Answers:
    locations = draw(layouts())
    frames = frames_of(locations)
    pattern = "{cabinet}-{frame}-{board}.b"
    match draw(st.sampled_from(["usual", "addresses", "names"])):
        case "usual":
            bmps = bmps_from(draw(ADDRESSES), frames) or bmps_from("10.0.0.0", frames) or []
            hosts = draw(st.sampled_from([None, pattern]))
        case "addresses":
            blocks = draw(st.lists(st.integers(0, 2**16), min_size=len(frames), max_size=len(frames), unique=True))
            bmps, hosts = [str(IPv4Address(block << 8)) for block in blocks], None
        case _:
            bmps = draw(st.lists(HOST_NAMES, min_size=len(frames), max_size=len(frames), unique=True))
            hosts = draw(HOST_NAMES.map(lambda name: f"{name}-{pattern}"))
    return Answers(name=draw(NAMES), locations=locations, bmps=bmps, board_hosts=hosts, web=draw(st.booleans()))


@given(answers())
def test_every_answer_makes_a_config_file_that_can_be_read(answers: Answers) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.toml"
        path.write_text(text_of_first(answers, ["a line", ""]))
        configuration = load(path)
    (machine,) = configuration.machines
    assert machine.name == answers.name
    assert machine.board_locations == answers.locations
    assert [machine.bmp_ips[frame] for frame in frames_of(answers.locations)] == answers.bmps
    for board, (cabinet, frame, number) in answers.locations.items():
        host = machine.spinnaker_ips[board]
        if answers.board_hosts is None:
            bmp = machine.bmp_ips[cabinet, frame]
            assert int(IPv4Address(host)) == int(IPv4Address(bmp)) + 8 * number + 1
        else:
            assert host.endswith(f"{cabinet}-{frame}-{number}.b")
    assert (configuration.web is not None) == answers.web


def test_the_known_layouts_are_those_of_the_wiring_tool() -> None:
    assert LAYOUTS[24] == board_locations_from_spinner(ROOT / "examples" / "spinner-24.csv")
    assert LAYOUTS[3] == board_locations_from_spinner(ROOT / "tests" / "data" / "spinner-3.csv")


def test_a_wiring_file_is_named_and_not_copied(tmp_path: Path) -> None:
    wiring = ROOT / "examples" / "spinner-1200.csv"
    locations = board_locations_from_spinner(wiring)
    bmps = bmps_from("10.1.0.0", frames_of(locations))
    assert bmps is not None
    text = text_of_first(Answers(name="m", locations=locations, wiring=str(wiring), bmps=bmps), [])
    (tmp_path / "a.toml").write_text(text)
    (machine,) = load(tmp_path / "a.toml").machines
    assert len(machine.live_boards) == 1200
    assert machine.bmp_ips[9, 4] == "10.1.49.0"
    assert 'form = "standard_ips"' in text


def test_what_has_no_usual_address_is_asked_for() -> None:
    assert bmps_from("bmp", [(0, 0)]) is None
    assert bmps_from("255.255.255.0", [(0, 0), (0, 1)]) is None
    with pytest.raises(ConfigurationValueError, match="BMP's address"):
        text_of_first(Answers(name="m", locations=LAYOUTS[3], bmps=["bmp"]), [])
    with pytest.raises(ConfigurationValueError, match="1 BMPs for 0 frames"):
        text_of_first(Answers(name="m", locations={}, bmps=["bmp"]), [])
    with pytest.raises(ConfigurationValueError, match="no text in UTF-8"):
        text_of_first(Answers(name="\udcff", locations=LAYOUTS[1], bmps=["10.0.0.0"]), [])
