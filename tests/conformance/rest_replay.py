"""The Java server's answers to a scenario, and the same requests sent to ours.

Theory of operation. `java/*.json` are requests in their order, each with the answer that a Java server gave
(SpiNNaker-allocserv 7.4.2, with dummy BMPs). What cannot be the same twice has a name in braces there: times, tokens,
versions, the server's address, and numbers of jobs and users. A replay sends each request, names the same things in
the answer, and compares status, content type and a few other headers, and the body, field by field. What differs is a
`Difference`; `docs/reference/rest-differences.md` must have it, with the reason.

The captures do not say when to wait for a job, nor where numbers come from: the tables here do.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.conformance.rest_client import Answer, RestClient
from tests.house import PATIENCE, ROOT
from tests.pages import page, spans, table_rows

__all__ = ["CAPTURES", "USERS", "Difference", "Replay", "definitions", "listed", "password_of"]

CAPTURES = [Path(__file__).with_name("java") / f"rest-{part}.json" for part in ("user", "admin")]
LITTLE = ROOT / "tests" / "data" / "definitions" / "little.json"
SINGLE = ROOT / "tests" / "data" / "definitions" / "single-board-example.json"

USERS = {
    "alice": "user",
    "bob": "user",
    "rita": "reader",
    "basil": "basic",
    "nmpi": "nmpi-exec",
    "compat": "user",
    "user1": "admin",
}

READY_BEFORE = {
    "job READY": "j1",
    "power is OFF": "j1",
    "power bad": "j1",
    "report": "j1",
    "job2": "j2",
    "job3 machine": "j3",
    "job4 machine": "j4",
    "job6": "j6",
    "job7": "j7",
}
"""The request before which a job is waited for."""

TOLD_BEFORE = {"job5 queued": "j5"}
"""The request before which it must be known when a job that waits will probably start."""

RESTED_BEFORE = {"create 1 board"}
"""The request before which all boards must be free, so that it is always the same one that is given."""

PICKED = {
    "job POWER": ["proxy-ref"],
    "job8 request": ["original-request"],
    "little after set (B20)": ["down-boards"],
}
"""Answers of which only this was kept."""

SHAPES = {"job3 machine", "job6 machine"}
"""Answers of which only types and lengths were kept."""

PLACE = re.compile(r'"number \d+ of \d+ in the queue, [^"]*"')
VERSION = re.compile(r'"version": *{[^}]*}')
HEADERS = ("content-type", "location", "link", "www-authenticate", "allow")


def password_of(user: str) -> str:
    """Return the password that the scenario has for a user."""
    return "user1Pass" if user == "user1" else f"{user}Pass1"


class Difference(NamedTuple):
    """What is not as the Java server has it."""

    request: str
    what: str
    """`status`, `header NAME`, `text`, or `json` with the path to a field."""
    java: str
    """As JSON; `` where there is nothing."""
    ours: str


def definitions() -> dict[str, Any]:
    """Return the machine definitions of the scenario."""
    return {"machines": [_big(), *json.loads(LITTLE.read_text())["machines"]], "port": 22244, "ip": "127.0.0.1"}


def listed() -> Iterator[tuple[Difference, str]]:
    """Yield the differences that the documentation lists, and why each is."""
    for requests, what, java, ours, why in table_rows(page("reference/rest-differences.md")):
        for request in spans(requests):
            yield Difference(request, *("".join(spans(cell)) for cell in (what, java, ours))), why


def _big() -> dict[str, Any]:
    """Return the definition of the machine `big`: 20 by 20 triads in 50 frames, column by column."""
    boards = [f"[x:{x},y:{y},z:{z}]" for x in range(20) for y in range(20) for z in range(3)]
    places = [divmod(number, 24) for number in range(len(boards))]
    return {
        "name": "big",
        "tags": ["default", "big"],
        "width": 20,
        "height": 20,
        "dead-boards": [],
        "dead-links": {},
        "board-locations": {
            board: {"c": frame // 5, "f": frame % 5, "b": slot}
            for board, (frame, slot) in zip(boards, places, strict=True)
        },
        "bmp-ips": {f"[c:{frame // 5},f:{frame % 5}]": f"127.1.{frame}.0" for frame in range(50)},
        "spinnaker-ips": {
            board: f"127.1.{frame}.{1 + 8 * slot}" for board, (frame, slot) in zip(boards, places, strict=True)
        },
    }


class Replay:
    """Sends the requests of a capture.

    Args:
        base: of our server.
        until_free: waits until all boards are free.
    """

    def __init__(self, base: str, until_free: Callable[[], None]) -> None:
        self._base = base
        self._until_free = until_free
        self._clients: dict[str | None, RestClient] = {}
        self._numbers: dict[str, str] = {}
        """Name in the captures -> number that ours gave."""

    def differences(self, capture: Path) -> Iterator[Difference]:
        """Send all requests of a capture; yield what differs."""
        recorded = capture.read_text().replace("-alt}", "}")  # it had two names of its host
        for expected in json.loads(VERSION.sub('"version": "{version}"', recorded)):
            name = expected["name"]
            if job := READY_BEFORE.get(name):
                self._wait_until_ready(job)
            if job := TOLD_BEFORE.get(name):
                self._wait_until_told(job)
            if name in RESTED_BEFORE:
                self._until_free()
            answer = self._send(expected)
            self._learn(expected, answer)
            if answer.status == 201 != expected["status"]:  # what the Java server did not make would change the rest
                assert self._client("user1").send("DELETE", urlsplit(answer.headers["location"]).path).status < 300
            for what, java, ours in self._compare(expected, answer):
                yield Difference(name, what, java, ours)

    # ---------------------------------------------------------------- sending

    def _client(self, user: str | None) -> RestClient:
        if user not in self._clients:
            self._clients[user] = RestClient(self._base, user, password_of(user) if user else "")
        return self._clients[user] if user else RestClient(self._base)

    def _send(self, expected: dict[str, Any]) -> Answer:
        headers, body = dict(expected.get("request-headers", {})), expected.get("request")
        if isinstance(body, dict | list):
            headers["Content-Type"] = "application/json"
        if "request-type" in expected:
            headers["Content-Type"] = expected["request-type"]
        return self._client(expected["user"]).send(
            expected["method"],
            re.sub(r"{(\w+)}", lambda match: self._numbers.get(match[1], "0"), expected["path"]),
            None if body is None else _bytes(body),
            headers,
            csrf=expected.get("csrf") != "none",
        )

    def _wait_until_ready(self, job: str) -> None:
        client, deadline = self._client("user1"), time.monotonic() + PATIENCE
        while (state := client.send("GET", f"jobs/{self._numbers[job]}").json["state"]) != "READY":
            assert time.monotonic() < deadline, f"{job} stays {state}"
            client.send("GET", f"jobs/{self._numbers[job]}?wait=true")

    def _wait_until_told(self, job: str) -> None:
        client, deadline = self._client("user1"), time.monotonic() + PATIENCE
        while "reason" not in client.send("GET", f"jobs/{self._numbers[job]}").json:
            assert time.monotonic() < deadline, f"it is not told why {job} waits"

    def _learn(self, expected: dict[str, Any], answer: Answer) -> None:
        """Take the numbers that an answer gives to what has a name in the capture."""
        told: Any = expected.get("json")
        if expected["status"] == answer.status == 201 and "job-id" in told:
            self._numbers[told["job-id"].strip("{}")] = str(answer.json["job-id"])
        if expected["name"] == "users" and answer.status == 200:
            links = answer.json
            self._numbers |= {"ualice": links["alice"].rpartition("/")[2], "uadmin": links["user1"].rpartition("/")[2]}
        if expected["name"] == "user create" and answer.status == 201:
            self._numbers["ucarol"] = answer.headers["location"].rpartition("/")[2]

    # ---------------------------------------------------------------- comparing

    def _compare(self, expected: dict[str, Any], answer: Answer) -> Iterator[tuple[str, str, str]]:
        if answer.status != expected["status"]:
            yield "status", str(expected["status"]), str(answer.status)
        for name in HEADERS:
            java = expected["headers"].get(name, "")
            ours = self._named(answer.headers.get(name, ""))
            if name == "content-type":
                java, ours = (each.partition(";")[0] for each in (java, ours))
            if java != ours:
                yield f"header {name}", java, ours
        if "bytes" in expected:
            return
        java_body, ours_body = expected.get("json", ...), self._body(expected, answer)
        if (text := expected.get("text")) is not None or java_body is ...:
            java_body = text or ""
        yield from _differing("text" if isinstance(java_body, str) else "json", java_body, ours_body)

    def _body(self, expected: dict[str, Any], answer: Answer) -> Any:
        """Return the body, with names in it, and as little of it as was kept of the other."""
        text = answer.body.decode()
        if not answer.headers.get("content-type", "").startswith("application/json") or not text:
            return self._named(text)
        told = answer.json
        if (fields := PICKED.get(expected["name"])) is not None:
            told = {field: told.get(field) for field in fields}
        if expected["name"] in SHAPES:
            told = _shape(told)
        return json.loads(self._named(json.dumps(told)))

    def _named(self, text: str) -> str:
        """Return `text` with names for what cannot be the same twice."""
        host = self._base.removeprefix("http://").partition("/")[0]
        for scheme, name in (("http", "server"), ("https", "server"), ("ws", "wss"), ("wss", "wss")):
            text = text.replace(f"{scheme}://{host}", f"{{{name}}}")
        text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "{instant}", text)
        text = re.sub(r'("csrf-token": *)"[^"]*"', r'\1"{csrf}"', text)
        text = PLACE.sub('"{place in the queue}"', text)
        text = VERSION.sub('"version": "{version}"', text)
        for name, number in self._numbers.items():
            before = r"(users/)" if name.startswith("u") else r"(jobs/|proxy/|to job )"
            text = re.sub(rf"{before}{number}(?!\d)", rf"\g<1>{{{name}}}", text)
            text = re.sub(rf'("job-id": *){number}(?!\d)', rf'\g<1>"{{{name}}}"', text) if name[0] == "j" else text
        return text


def _bytes(body: Any) -> bytes:
    files: dict[str, Callable[[], str]] = {
        "@little": LITTLE.read_text,
        "@single": lambda: SINGLE.read_text().replace("192.168", "127.7"),
        "@badip": lambda: SINGLE.read_text().replace("127.0.0.1", "1.2.3.4.5.not-an-ip"),
    }
    if isinstance(body, str):
        return (files[body]() if body in files else body).encode()
    return json.dumps(body).encode()


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shape(value[0]), f"x{len(value)}"] if value else []
    return type(value).__name__


def _differing(where: str, java: Any, ours: Any) -> Iterator[tuple[str, str, str]]:
    """Yield each field that differs, as JSON; what one of them has not is ``."""
    if isinstance(java, dict) and isinstance(ours, dict):
        for name in {**java, **ours}:
            yield from _differing(f"{where}.{name}", java.get(name, ...), ours.get(name, ...))
    elif isinstance(java, list) and isinstance(ours, list):
        for index, (one, other) in enumerate(zip_longest(java, ours, fillvalue=...)):
            yield from _differing(f"{where}[{index}]", one, other)
    elif java != ours:
        yield where, _told(java), _told(ours)


def _told(value: Any) -> str:
    return "" if value is ... or value == "" else json.dumps(value)
