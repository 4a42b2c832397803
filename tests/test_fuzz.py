"""Damaged input of every kind is refused in an orderly way, never by a surprise.

Inputs are good ones with random damage. A few are tried with each run of the suite; in continuous integration each
kind is tried for 10 s, and `make fuzz` tries more, for `FUZZ_SECONDS`. What was found once is an `@example`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spalloc_server.config_toml import read_toml
from spalloc_server.configuration import Configuration, Limits, board_locations_from_spinner
from spalloc_server.controller import Controller
from spalloc_server.errors import ConfigurationError
from spalloc_server.hardware.scp import BadPacket, Request, Response, Version
from spalloc_server.protocol.commands import Commands, decode
from spalloc_server.protocol.lines import GarbageError, LineReader
from tests.core.machines import a_machine

SECONDS = float(os.environ.get("FUZZ_SECONDS") or 0)
"""For each kind of input; 0 for one round."""

ROUND = 150
"""Inputs that are tried in one round."""

EXAMPLES = Path(__file__).parent.parent / "examples"

T = TypeVar("T")

LINES = [
    b'{"command": "create_job", "args": [3, 4], "kwargs": {"owner": "me", "keepalive": 60.0, "tags": ["default"]}}',
    b'{"command":"create_job","args":[],"kwargs":{"owner":"\xc3\xa9","machine":null,"min_ratio":0.333,"max_dead_links":0}}',
    b'{"command": "where_is", "kwargs": {"machine": "m", "chip_x": 1, "chip_y": 2}, "args": []}',
    b'{"command": "get_board_at_position", "args": ["m", 0, 0, 1]}',
    b'{"command": "destroy_job", "args": [1, "why"]}',
    b'{"command": "notify_job", "args": [1]}\r',
    b'{"command": "list_jobs"}',
]
CSV = b"cabinet,frame,board,x,y\n0,0,0,0,0\n0,0,1,8,4\n0,0,2,4,8\n"
TOML = [path.read_bytes() for path in sorted(EXAMPLES.glob("*.toml")) if path.name != "faults.toml"]
PACKETS = [Request(3, 0, 7, 1, 2, 3, b"xyz").encode(), Response(0x80, 7, Version().encode()).encode(bytes(26))]

DAMAGE = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [b"\n", b'"', b"\\", b"[" * 3000, b"{", b"-1", b"1e999", b"9" * 400, b"\xff", b"\0", b",", b"=", b"null"]
    ),
)


@st.composite
def damaged(draw: st.DrawFn, good: list[bytes]) -> bytes:
    """One of `good`, with up to four pieces of it replaced by others."""
    text = draw(st.sampled_from(good))
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(text)))
        end = draw(st.integers(begin, min(len(text), begin + 40)))
        text = text[:begin] + draw(DAMAGE) + text[end:]
    return text


def fuzz(inputs: st.SearchStrategy[T], check: Callable[[T], None]) -> None:
    """Try `check` with rounds of inputs, for `SECONDS`."""
    deadline = time.monotonic() + SECONDS
    once = settings(max_examples=ROUND, deadline=None, suppress_health_check=list(HealthCheck))(given(inputs)(check))
    once()
    while time.monotonic() < deadline:
        once()


def test_lines_are_the_same_however_their_bytes_arrive() -> None:
    def check(chunks: list[bytes]) -> None:
        reader, lines = LineReader(limit=50), []
        with suppress(GarbageError):
            for chunk in chunks:
                reader.receive(chunk)
                while (line := reader.next_line()) is not None:
                    lines.append(bytes(line))
        expected = b"".join(chunks).split(b"\n")
        assert lines == expected[: len(lines)]
        assert all(len(line) <= 50 for line in lines)
        if all(len(line) <= 50 for line in expected):
            assert lines == expected[:-1]
            assert reader.unread == expected[-1]

    fuzz(st.lists(damaged([line[:40] + b"\n" for line in LINES]), max_size=6), check)


class Client:
    host = "127.0.0.1"


def test_every_line_is_garbage_or_gets_one_line_of_an_answer() -> None:
    controller = Controller()
    controller.configure(Configuration([a_machine("m", 2, 2)], limits=Limits(queued_jobs=20)))
    commands: Commands[Client] = Commands(controller, Limits())
    client = Client()

    def check(line: bytes) -> None:
        garbage, reply = "", b""
        try:
            reply = commands.execute(client, decode(line))
        except GarbageError as error:
            garbage = error.line
        assert len(garbage) < 1000
        assert garbage.isprintable()
        if reply:
            assert reply.index(b"\n") == len(reply) - 1
            (kind,) = msgspec.json.decode(reply)
            assert kind in {"return", "exception"}
            assert b"internal error" not in reply
        controller.check()
        changes = controller.take_changes()
        msgspec.json.encode(changes)

    fuzz(damaged(LINES), check)


@pytest.mark.parametrize(
    "parse", [Request.decode, Response.decode, lambda data: Version.decode(Response.decode(data).payload)]
)
def test_datagrams_are_parsed_or_refused(parse: Callable[[bytes], object]) -> None:
    def check(datagram: bytes) -> None:
        with suppress(BadPacket):
            parse(datagram)

    fuzz(damaged(PACKETS) | st.binary(max_size=600), check)


def test_config_files_are_a_configuration_or_an_error_that_names_the_file() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.toml"
        for wiring in EXAMPLES.glob("*24.csv"):
            (Path(folder) / wiring.name).write_bytes(wiring.read_bytes())

        def check(text: bytes) -> None:
            path.write_bytes(text)
            problem = str(path)
            try:
                assert isinstance(read_toml(path), Configuration)
            except ConfigurationError as error:
                problem = str(error)
            except UnicodeDecodeError:  # which `load` tells
                pass
            assert str(path) in problem

        fuzz(damaged(TOML), check)


def test_wiring_files_are_locations_or_an_error_that_names_the_file() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.csv"

        def check(text: bytes) -> None:
            path.write_bytes(text)
            problem = str(path)
            try:
                locations = board_locations_from_spinner(path)
                assert all(len(board) == len(place) == 3 for board, place in locations.items())
            except ConfigurationError as error:
                problem = str(error)
            except UnicodeDecodeError:  # which `load` tells
                pass
            assert str(path) in problem

        fuzz(damaged([CSV]), check)
