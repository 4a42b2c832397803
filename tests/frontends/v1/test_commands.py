"""What each command asks of the core, and what a client hears."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from structlog.testing import capture_logs

from spalloc_server import __version__
from spalloc_server.application.commands import Kind
from spalloc_server.config.machine import Machine
from spalloc_server.controller import Controller
from spalloc_server.core.model.request import Request as WhatIsAsked
from spalloc_server.frontends.v1.commands import COMMANDS, Call, decode
from spalloc_server.frontends.v1.door import Door, Request, caller_at
from spalloc_server.frontends.v1.lines import GarbageError
from spalloc_server.frontends.v1.replies import PROTOCOL_VERSION
from spalloc_server.log.defects import DefectLog
from tests.frontends.v1.stand_in import StandIn, an_application, request


class Client:
    def __init__(self) -> None:
        self.caller = caller_at("10.1.2.3")

    def hear(self, kind: Kind, names: Collection[Any]) -> None:
        """Nobody tells it anything."""


def a_door(core: Controller, most_watched: int = 1024) -> Door:
    return Door(an_application(core), most_watched, DefectLog())


class Bench:
    def __init__(self, most_watched: int = 1024) -> None:
        self.core = StandIn()
        self.door = a_door(self.core.as_core(), most_watched)
        self.client = Client()

    def ask(self, command: str, /, *args: Any, **kwargs: Any) -> Any:
        return self.send(request(command, *args, **kwargs))

    def send(self, line: bytes) -> Any:
        return json.loads(self.door.answer(self.client, Request(decode(line)))[0])


HOST = {"keepalivehost": "10.1.2.3"}


@pytest.mark.parametrize(
    ("command", "args", "kwargs"),
    [
        ("power_on_job_boards", (3,), HOST),
        ("power_off_job_boards", (3,), HOST),
        ("destroy_job", (3, "done"), {}),
        ("get_board_position", ("m", 1, 2, 0), {}),
        ("get_board_at_position", ("m", 1, 2, 0), {}),
    ],
)
def test_arguments_come_by_position_or_by_name(command: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    names = {
        "destroy_job": ("job_id", "reason"),
        "get_board_position": ("machine_name", "x", "y", "z"),
        "get_board_at_position": ("machine_name", "x", "y", "z"),
    }.get(command, ("job_id",))
    bench = Bench()
    assert bench.ask(command, *args) == {"return": None}
    assert bench.ask(command, **dict(zip(names, args, strict=True))) == {"return": None}
    assert bench.core.calls == [(command, args, kwargs)] * 2


@pytest.mark.parametrize("infinity", ["Infinity", "1e999"])
def test_an_infinite_keepalive_never_expires_as_with_the_published_server(infinity: str) -> None:
    bench = Bench()
    line = (
        f'{{"command": "create_job", "kwargs": {{"owner": "me", "keepalive": {infinity}, "max_dead_links": Infinity}}}}'
    )
    assert bench.send(line.encode()) == {"return": 1}
    (_, (asked, keepalive, *_), _) = bench.core.calls[0]
    assert (keepalive, asked.max_dead_links) == (None, None)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "-1e999"])
def test_a_keepalive_that_is_no_number_is_refused_and_nobody_is_disconnected(number: str) -> None:
    line = f'{{"command": "create_job", "kwargs": {{"owner": "me", "keepalive": {number}}}}}'
    assert "keepalive must be a number of seconds" in Bench().send(line.encode())["exception"]


@pytest.mark.parametrize(
    ("sent", "owner"),
    [("a\\udcf6b", "a\u00f6b"), ("\\ud83d\\ude00 \\ud83d", "\U0001f600 \ufffd"), ("\\udc41\\\\udcf6", "\ufffd\\udcf6")],
)
def test_lone_surrogates_become_what_was_meant(sent: str, owner: str) -> None:
    bench = Bench()
    line = f'{{"command": "create_job", "kwargs": {{"owner": "{sent}", "tags": ["{sent}"]}}}}'
    assert bench.send(line.encode()) == {"return": 1}
    assert bench.core.jobs == [owner]
    (_, (asked, _, _, _, kwargs), _) = bench.core.calls[0]
    assert (asked.tags, kwargs["tags"]) == ({owner}, [owner])
    json.dumps(kwargs).encode()


def test_to_watch_a_job_by_name_keeps_it_alive() -> None:
    bench = Bench()
    bench.ask("notify_job", 3)
    bench.ask("notify_job")
    assert bench.core.calls == [("renew", (3, "10.1.2.3"), {})]


def test_a_keepalive_renews_its_job_by_position_or_by_name() -> None:
    bench = Bench()
    assert bench.ask("job_keepalive", 3) == bench.ask("job_keepalive", job_id=3) == {"return": None}
    assert bench.core.calls == [("renew", (3, "10.1.2.3"), {})] * 2


def test_destroy_job_takes_its_reason_by_name_behind_a_positional_id() -> None:
    bench = Bench()
    bench.ask("destroy_job", 3, reason="done")
    bench.ask("destroy_job", 4)
    assert [call[1] for call in bench.core.calls] == [(3, "done"), (4, None)]


def test_a_long_reason_is_shortened_and_a_long_name_is_no_machine() -> None:
    bench = Bench()
    assert bench.ask("destroy_job", 3, "x" * 1000) == {"return": None}
    bench.ask("get_board_position", "x" * 1000, 0, 0, 0)
    bench.ask("notify_machine", "x" * 1000)
    assert [call[1] for call in bench.core.calls] == [(3, "x" * 256), ("", 0, 0, 0)]
    assert bench.door.watched(bench.client) == ([], [""])


def test_args_and_kwargs_may_be_absent() -> None:
    assert Bench().send(b'{"command": "version"}') == {"return": PROTOCOL_VERSION}


@pytest.mark.parametrize(
    ("parts", "start", "stop"),
    [
        pytest.param(3, (0, 4, 0), (2, 0, 0), id="Job of 0.2.6 to 5.1.0"),
        pytest.param(None, (0, 3, 0), (2, 0, 0), id="spalloc-where-is of 0.2.6"),
        pytest.param(None, (0, 1, 0), (5, 0, 1), id="1!6.0.0"),
        pytest.param(None, (0, 1, 0), (7, 0, 0), id="1!7.0.0 to 1!7.4.1"),
        pytest.param(3, (0, 1, 0), (7, 0, 0), id="Job of 1!7.0.0 to 1!7.4.1"),
    ],
)
def test_the_version_suits_every_published_client_whatever_that_of_the_package_is(
    parts: int | None, start: tuple[int, ...], stop: tuple[int, ...]
) -> None:
    told = Bench().ask("version")["return"]
    numbers = tuple(map(int, told.split(".")[:parts]))
    assert len(numbers) == 3
    assert start <= numbers < stop
    assert told == PROTOCOL_VERSION != __version__


def test_a_job_is_created_with_its_arguments_as_they_came_and_the_address_of_its_creator() -> None:
    bench = Bench()
    assert bench.ask("create_job", 4, 5.0, owner="me", tags=["a"], keepalivehost="forged") == {"return": 1}
    request = WhatIsAsked(owner="me", triads=(4, 5), tags=frozenset({"a"}))
    assert bench.core.calls == [("submit", (request, 60.0, "10.1.2.3", [4, 5.0], {"tags": ["a"]}), {})]


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({}, "It doesn't work and I don't know why."),
        ({"description": " No lights. "}, "No lights."),
        ({"x": 1, "y": 2, "description": "Hot"}, "Hot (at chip (1, 2))"),
        ({"x": 1, "y": 2, "p": 3, "description": "Hot"}, "Hot (at core 3 of chip (1, 2))"),
        ({"x": 1, "description": 7}, "It doesn't work and I don't know why."),
    ],
)
def test_a_report_of_a_problem_names_the_place_and_its_sender(kwargs: dict[str, Any], words: str) -> None:
    bench = Bench()
    assert bench.ask("report_problem", "10.0.0.1", **kwargs) == {"return": None}
    assert bench.core.calls == [("report_problem", ("10.0.0.1", words), {"reporter": "10.1.2.3", "user": None})]


def test_structs_are_replied_with_all_their_fields() -> None:
    fields = ("power", "keepalive", "reason", "start_time", "keepalivehost")
    assert Bench().ask("get_job_state", 7) == {"return": {"state": 0, **dict.fromkeys(fields)}}


@pytest.mark.parametrize("where", [{"machine": "m", "x": 0, "y": 0, "z": 0}, {"job_id": 1, "chip_x": -4, "chip_y": 2}])
def test_where_is_hands_on_the_names_that_it_is_given(where: dict[str, Any]) -> None:
    bench = Bench()
    assert bench.ask("where_is", **where) == {"return": None}
    assert bench.core.calls == [("where_is", (), where)]


@pytest.mark.parametrize("keyword", [1, None, "me"])
def test_a_keyword_named_client_is_ignored(keyword: Any) -> None:
    assert Bench().ask("version", client=keyword) == {"return": PROTOCOL_VERSION}


@pytest.mark.parametrize(("number", "meant"), [(3.0, 3), (3.5, -1), ("3", -1), (True, -1), (None, -1), ([3], -1)])
def test_what_is_no_whole_number_is_no_job(number: Any, meant: int) -> None:
    bench = Bench()
    assert bench.ask("get_job_state", number)["return"]["state"] == 0
    assert bench.core.calls == [("renew", (meant, "10.1.2.3"), {}), ("get_job_state", (meant,), HOST)]


@pytest.mark.parametrize("name", [1, None, ["m"], {}])
def test_what_is_no_string_is_no_machine(name: Any) -> None:
    bench = Bench()
    assert bench.ask("get_board_position", name, "x", [], {}) == {"return": None}
    assert bench.core.calls == [("get_board_position", ("", -1, -1, -1), {})]


def test_a_chip_that_is_no_whole_number_is_refused_since_all_whole_numbers_name_chips() -> None:
    reply = Bench().ask("where_is", machine="m", chip_x="east", chip_y=1)
    assert reply == {"exception": "chip_x must be a whole number, not 'east'"}


@pytest.mark.parametrize(
    ("command", "args", "kwargs", "told"),
    [
        ("get_job_state", (), {}, "missing a required argument: 'job_id': the command is get_job_state(job_id)"),
        ("version", (1,), {}, "too many positional arguments: the command is version()"),
        ("destroy_job", (1,), {"why": 1}, "unexpected keyword argument 'why'"),
        ("destroy_job", (1,), {"job_id": 1}, "multiple values for argument 'job_id'"),
        ("version", (), {"self": 1}, "unexpected keyword argument 'self'"),
        ("where_is", ("m",), {}, "the command is where_is(**place)"),
    ],
)
def test_a_refusal_of_arguments_says_what_would_be_right(
    command: str, args: tuple[Any, ...], kwargs: dict[str, Any], told: str
) -> None:
    with capture_logs() as logs:
        assert told in Bench().ask(command, *args, **kwargs)["exception"]
    assert logs == []


def test_a_refused_request_is_answered_with_its_reason() -> None:
    assert Bench().ask("create_job", 1)["exception"].startswith("owner must be specified for all jobs")


def test_a_defect_of_the_server_is_logged_and_its_client_gets_no_details() -> None:
    with capture_logs() as logs:
        reply = Bench().ask("list_machines")
    assert reply == {"exception": "list_machines: internal error of the server; its log tells more"}
    assert [(entry["event"], entry["exc_info"], entry["peer"]) for entry in logs] == [
        ("command failed", True, "10.1.2.3")
    ]


def test_arguments_too_deep_to_be_worked_with_are_refused() -> None:
    bench = Bench()
    depth: list[Any] = []
    for _ in range(100_000):
        depth = [depth]
    bench.core.result = depth
    with capture_logs() as logs:
        assert "too deeply" in bench.ask("get_board_position", "m", 0, 0, 0)["exception"]
    assert logs == []


def test_watching_beyond_the_limit_is_refused_but_watching_all_is_not() -> None:
    bench = Bench(most_watched=2)
    assert bench.ask("notify_job", 1) == bench.ask("notify_machine", "m") == {"return": None}
    assert "most that one may" in bench.ask("notify_job", 2)["exception"]
    assert bench.ask("notify_job", 1) == {"return": None}
    assert bench.ask("notify_job") == {"return": None}
    assert bench.door.watched(bench.client) == (None, ["m"])


GARBAGE = [
    b"",
    b"nonsense",
    b"null",
    b"[]",
    b"{}",
    b'{"command": null}',
    b'{"command": "version", "args": {}}',
    b'{"command": "version", "args": null}',
    b'{"command": "version", "kwargs": []}',
    b'{"command": "version"} trailing',
    b'{"command": "\xff"}',
    b'{"command": "\\ud800"}',
    b'{"command": "version", "args": ' + b"[" * 60000,
    b'{"command": "version", "args": [' + b"9" * 60000 + b"]}",
    b'{"command": "__init__"}',
    b'{"command": "execute"}',
]


@pytest.mark.parametrize("line", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_no_request_is_garbage(line: bytes) -> None:
    with pytest.raises(GarbageError) as caught:
        Bench().send(line)
    assert len(str(caught.value)) < 200
    assert len(caught.value.line) < 200


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["job_id", "machine_name", "x", "y", "z", "machine", "chip_x", "reason", "client", "owner"])


@settings(max_examples=100)
@given(
    command=st.sampled_from(list(COMMANDS)),
    args=st.lists(json_values, max_size=5),
    kwargs=st.dictionaries(names | st.text(max_size=5), json_values, max_size=4),
)
def test_every_request_has_one_reply_and_only_known_defects_are_logged(
    command: str, args: list[Any], kwargs: dict[str, Any]
) -> None:
    bench = Bench()
    line = json.dumps({"command": command, "args": args, "kwargs": kwargs}).encode()
    with capture_logs() as logs:
        reply, _ = bench.door.answer(bench.client, Request(decode(line)))
    assert reply.endswith(b"}\n")
    assert reply.count(b"\n") == 1
    assert set(json.loads(reply)) in ({"return"}, {"exception"})
    assert all(entry["command"] == "list_machines" for entry in logs)


places = st.sampled_from([("machine", "x", "y", "z"), ("machine", "chip_x", "chip_y"), ("job_id", "chip_x", "chip_y")])
likely = st.sampled_from([0, 1, 2, 1.5, "1", "m", "me", None, True, 10**30]) | json_values


@settings(max_examples=80)
@given(
    command=st.sampled_from([name for name in COMMANDS if name != "where_is"]),
    args=st.lists(likely, max_size=4),
    kwargs=st.dictionaries(names | st.sampled_from(["self", "keepalive", "tags", "min_ratio"]), likely, max_size=4),
    place=places.flatmap(lambda form: st.fixed_dictionaries(dict.fromkeys(form, likely))),
)
def test_no_request_makes_the_core_fail(
    command: str, args: list[Any], kwargs: dict[str, Any], place: dict[str, Any]
) -> None:
    controller = Controller()
    controller.machines = {"m": Machine.single_board("m", bmp_ip="127.0.0.1", spinnaker_ip="127.0.0.2")}
    controller.create_job(owner="me")
    door = a_door(controller)
    with capture_logs() as logs:
        for call in (Call(command, args, kwargs), Call("where_is", [], place)):
            assert set(json.loads(door.answer(Client(), Request(call))[0])) in ({"return"}, {"exception"})
    assert logs == []


@settings(max_examples=100)
@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_garbage_never_raises_anything_else(line: bytes) -> None:
    try:
        decode(line)
    except GarbageError:
        return
    assert b"command" in line
