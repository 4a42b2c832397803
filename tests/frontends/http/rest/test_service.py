"""The root, the emergency stop, the admin API, paths, and what everybody may read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from spalloc_server.application import commands
from spalloc_server.application.own_job_commands import FindBoard
from spalloc_server.core.model import BoardView
from tests.frontends.http.rest.client import BASE, BOARDS, BOB, FOUND, JOB, MACHINE, ROOT, Client, StandIn, refusal, who

VIEW = BoardView(machine="m", x=5, y=7, z=1, state="free", cabinet=2, frame=3, board=10)


def serving(role: str, **web: Any) -> Client:
    """A client of a server that does all that it is asked."""
    return Client.of(role, **web).answering(
        OwnJobDetails=JOB,
        OwnJobMachine=BOARDS,
        MachineDetailsOf=[MACHINE],
        FindBoard=FOUND,
        BoardOfJob=FOUND,
        JobNumbers=[7],
        CreateJob=7,
        ReportIssue=0,
        Boards=[VIEW],
        EnableBoard=VIEW,
        ListAccounts=[BOB],
        ImportMachines=[],
        StopByCode=None,
        CreateAccount=BOB,
        ChangeAccount=BOB,
        DisableBoard=replace(VIEW, out_of_service="by hand"),
        **dict.fromkeys(["KeepAlive", "DestroyJob", "PowerOnJob", "PowerOffJob", "EmergencyStop", "DeleteAccount"]),
    )


# -------------------------------------------------------------------- the root


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.1.3", (2, 1, 3)), ("2.0", (2, 0, 0)), ("3", (3, 0, 0)), ("1!8.4.dev7+g12ab", (8, 4, 7)), ("", (0, 0, 0))],
)
async def test_the_root_tells_the_version_and_where_to_go_on(version: str, numbers: tuple[int, ...]) -> None:
    client = Client(StandIn(version=version), who("user"))
    assert (await client.get("")).json == {
        "version": dict(zip(("major-version", "minor-version", "revision"), numbers, strict=True)),
        "jobs-ref": f"{ROOT}/jobs",
        "machines-ref": f"{ROOT}/machines",
        "csrf-header": "X-CSRF-TOKEN",
        "csrf-token": "c5f",
    }


async def test_who_may_not_look_is_given_no_links() -> None:
    assert (await Client.of("basic").get("")).json.keys() == {"version", "csrf-header", "csrf-token"}


async def test_who_has_no_session_is_given_no_csrf_token() -> None:
    client = Client(caller=who("user", csrf=None))
    assert (await client.get("")).json.keys() == {"version", "jobs-ref", "machines-ref"}


@pytest.mark.parametrize("path", ["", "/", "//"])
async def test_the_root_has_any_number_of_slashes(path: str) -> None:
    client = Client.of("user")
    assert (await client.send("GET", f"/spalloc/srv/spalloc{path}")).status == 200


# -------------------------------------------------------------------- paths and methods


PATHS: list[tuple[str, str, Any, str]] = [
    ("GET", "", None, "basic"),
    ("GET", "machines", None, "reader"),
    ("GET", "machines/m", None, "reader"),
    ("GET", "machines/m/logical-board", None, "reader"),
    ("GET", "machines/m/physical-board", None, "reader"),
    ("GET", "machines/m/chip", None, "reader"),
    ("GET", "machines/m/board-ip?address=x", None, "reader"),
    ("GET", "jobs", None, "reader"),
    ("POST", "jobs", {"keepalive-interval": 60, "machine-name": "m"}, "user"),
    ("GET", "jobs/7", None, "user"),
    ("GET", "jobs/7?wait=1", None, "user"),
    ("DELETE", "jobs/7", None, "user"),
    ("PUT", "jobs/7/keepalive", "alive", "user"),
    ("GET", "jobs/7/machine", None, "user"),
    ("GET", "jobs/7/machine/power", None, "user"),
    ("POST", "jobs/7/machine/power", {"power": "ON"}, "user"),
    ("PUT", "jobs/7/power", {"power": "OFF"}, "user"),
    ("GET", "jobs/7/chip", None, "user"),
    ("POST", "jobs/7/report-issue", {"issue": "x", "boards": [{"chip": [0, 0]}]}, "user"),
    ("GET", "jobs/7/memory?address=0&size=1", None, "user"),
    ("POST", "jobs/7/memory?address=0", b"x", "user"),
    ("GET", "jobs/7/fast-data-read?gather_x=1&gather_y=2&iptag=3&address=8&size=9", None, "user"),
    ("POST", "jobs/7/fast-data-write?gather_x=1&gather_y=2&gather_p=3&iptag=3&address=8", b"x", "user"),
    ("DELETE", "jobs/7/router", None, "user"),
    ("GET", "admin", None, "operator"),
    ("GET", "admin/board?machine=m&x=5&y=7&z=1", None, "operator"),
    ("PUT", "admin/board?machine=m&x=5&y=7&z=1", "true", "operator"),
    ("GET", "admin/import", None, "operator"),
    ("POST", "admin/import", {"machines": []}, "operator"),
    ("GET", "admin/users", None, "admin"),
    ("POST", "admin/users", {"user-name": "bob", "trust-level": "USER"}, "admin"),
    ("GET", "admin/users/4", None, "admin"),
    ("PUT", "admin/users/4", {"enabled": True}, "admin"),
    ("DELETE", "admin/users/4", None, "admin"),
    ("POST", "emergencyStop", None, "admin"),
    ("GET", "emergencyStop?commandCode=c0de", None, "basic"),
]
"""Each operation, and the least role that may do it."""

ROLES = ["basic", "reader", "user", "nmpi-exec", "operator", "admin"]


async def ask(client: Client, method: str, path: str, body: Any, **options: Any) -> Any:
    kind = {"str": "text/plain", "bytes": "application/octet-stream"}.get(type(body).__name__)
    body = body.encode() if isinstance(body, str) else body or b""
    return await client.send(method, path, body, kind, **options)


async def test_the_table_of_operations_has_all_that_are_documented() -> None:
    client = serving("admin")
    documented = {
        (method.upper(), path) for path, methods in (await client.document())["paths"].items() for method in methods
    }
    tried = {(method, "/" + path.partition("?")[0]) for method, path, *_ in PATHS}
    for name, parameter in (
        ("machines/m", "machines/{name}"),
        ("jobs/7", "jobs/{job_id}"),
        ("users/4", "users/{user_id}"),
    ):
        tried = {(method, path.replace(f"/{name}", f"/{parameter}")) for method, path in tried}
    assert tried == documented


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("method", "path", "body", "least"), PATHS)
async def test_who_may_do_what(role: str, method: str, path: str, body: Any, least: str) -> None:
    client = serving(role, emergency_code="c0de")
    answer = await ask(client, method, path, body)
    if ROLES.index(role) >= ROLES.index(least):
        assert 200 <= answer.status < 300
    else:
        assert answer.summary == (403, "computer says no")
        assert not client.server.asked
        assert not client.boards.told


@pytest.mark.parametrize(("method", "path", "body", "least"), PATHS)
async def test_the_configuration_caps_what_all_may_do(method: str, path: str, body: Any, least: str) -> None:
    client = serving("admin", max_role="user", emergency_code="c0de")
    answer = await ask(client, method, path, body)
    assert (answer.status == 403) == (least in {"operator", "admin"})


@pytest.mark.parametrize(("method", "path", "body", "least"), PATHS)
async def test_nobody_may_do_anything(method: str, path: str, body: Any, least: str) -> None:
    client = serving("admin")
    answer = await ask(client, method, path, body, caller=None)
    assert answer.status == 401
    assert "Basic" in answer.headers["www-authenticate"]
    assert not client.server.asked
    assert not client.boards.told


@pytest.mark.parametrize("slashes", ["/", "//"])
@pytest.mark.parametrize(("method", "path", "body", "least"), PATHS)
async def test_slashes_at_the_end_do_not_matter(slashes: str, method: str, path: str, body: Any, least: str) -> None:
    client = serving("admin", emergency_code="c0de")
    name, _, query = path.partition("?")
    slashes = slashes if name else ""  # the root has its own test
    assert 200 <= (await ask(client, method, f"{name}{slashes}?{query}", body)).status < 300


@pytest.mark.parametrize("path", ["", "jobs", "jobs/7", "jobs/8", "machines/m", "nothing"])
async def test_head_is_get_without_a_body(path: str) -> None:
    client = serving("user")
    with_body = await client.get(path)
    head = await client.send("HEAD", path)
    assert (head.status, head.headers, head.body) == (with_body.status, with_body.headers, b"")


@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE", "TRACE", "QUERY"])
async def test_a_method_that_a_path_has_not_is_refused_with_those_that_it_has(method: str) -> None:
    answer = await serving("user").send(method, "jobs")
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("jobs", "GET, HEAD, OPTIONS, POST"),
        ("jobs/7", "DELETE, GET, HEAD, OPTIONS"),
        ("jobs/7/keepalive", "OPTIONS, PUT"),
        ("machines/m/chip", "GET, HEAD, OPTIONS"),
    ],
)
async def test_options_are_all_methods_of_a_path(path: str, allowed: str) -> None:
    answer = await serving("user").send("OPTIONS", path)
    assert (answer.status, answer.headers, answer.body) == (204, {"allow": allowed}, b"")


async def test_a_path_that_there_is_not_has_no_options() -> None:
    assert (await serving("user").send("OPTIONS", "nothing")).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "nothing",
        "jobs/7/nothing",
        "jobs/7/machine/nothing",
        "machines/m/nothing",
        "admin/groups",
        "admin/groups/1/members",
        "admin/nmpi",
        "jobs/7/..",
        "\N{SNOWMAN}",
        "x" * 5000,
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_there_is_not_is_not_found(method: str, path: str) -> None:
    answer = await serving("admin").send(method, path)
    assert answer.status == 404
    assert answer.text


@pytest.mark.parametrize("path", ["/spalloc/srv/nothing", "/spalloc/srv/spallocx", "/spalloc/srv", "/", ""])
async def test_beside_the_service_there_is_nothing(path: str) -> None:
    client = serving("admin")
    scope_path = path or "/"
    assert (await client.send("GET", scope_path)).status == 404


WITH_A_BODY = [each for each in PATHS if each[2] is not None and not each[1].endswith("keepalive")]
"""Operations whose body matters."""


@pytest.mark.parametrize(("method", "path", "body", "least"), WITH_A_BODY)
async def test_a_body_that_breaks_off_does_nothing(method: str, path: str, body: Any, least: str) -> None:
    client = serving("admin")
    client.breaks_off = True
    answer = await ask(client, method, path, body)
    assert answer.status == 413
    assert not any(command.changes for command in client.server.asked)


# -------------------------------------------------------------------- emergency stop


async def test_the_emergency_stop_says_who_wants_it_and_why() -> None:
    client = serving("admin")
    assert (await client.send("POST", "emergencyStop?reason=smoke")).summary == (204, "")
    assert (await client.send("POST", "emergencyStop?reason=%20")).status == 204
    assert (await client.send("POST", "emergencyStop")).status == 204
    assert client.server.asked == [commands.EmergencyStop(reason=why) for why in ("smoke", "by HTTP", "by HTTP")]


@pytest.mark.parametrize("role", ROLES)
async def test_whoever_has_the_code_may_stop_everything(role: str) -> None:
    client = serving(role, emergency_code="c0de")
    assert (await client.get("emergencyStop?commandCode=c0de")).summary == (200, "")
    assert client.server.asked == [commands.StopByCode(code="c0de", reason="alice by HTTP, with the code")]
    assert client.server.behalves == [None]


async def test_a_code_that_is_not_right_is_refused() -> None:
    client = serving("basic", emergency_code="c0de").answering(StopByCode=refusal("forbidden"))
    assert (await client.get("emergencyStop?commandCode=x")).summary == (403, "computer says no")
    assert (await client.get("emergencyStop")).summary == (403, "computer says no")


async def test_without_a_code_in_the_configuration_there_is_no_such_path() -> None:
    client = serving("admin")
    assert (await client.get("emergencyStop?commandCode=")).status == 404
    assert client.server.asked == []


# -------------------------------------------------------------------- admin


async def test_machine_definitions_go_to_the_server_as_they_are() -> None:
    client = serving("operator")
    assert (await client.send("POST", "admin/import", b'{ "machines":[]}', "application/json")).summary == (204, "")
    assert client.server.asked == [commands.ImportMachines(definitions='{ "machines":[]}')]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"", "application/json", 400),
        (b'{"\xff": 1}', "application/json", 400),
        (b'{"x": ' + b"[" * 100_000, "application/json", 400),
        (b'{"x": "' + b"1" * 1_000_000 + b'"}', "application/json", 413),
        (b'{"x": "' + rb"\u0000" * 100_000 + b'", "y": "' + b'\\"' * 200_000 + b'"}', "application/json", 413),
        (b"{}", "text/plain", 415),
    ],
)
async def test_what_are_no_machine_definitions_does_not_go_there(body: bytes, kind: str, status: int) -> None:
    client = serving("operator")
    assert (await client.send("POST", "admin/import", body, kind)).status == status
    assert client.server.asked == []


async def test_the_admin_root_tells_where_to_go_on() -> None:
    assert (await serving("admin").get("admin")).json == {
        "import-machines": f"{ROOT}/admin/import",
        "set-board-enabled": f"{ROOT}/admin/board",
    }


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("x=5&y=7&z=1", FindBoard(machine="m", board=[5, 7, 1])),
        ("cabinet=2&frame=3&board=10", FindBoard(machine="m", place=[2, 3, 10])),
        ("address=10.1.1.2", FindBoard(machine="m", address="10.1.1.2")),
    ],
)
@pytest.mark.parametrize(
    ("view", "said"),
    [
        (VIEW, "true"),
        (replace(VIEW, state="in use"), "true"),
        (replace(VIEW, state="dead"), "false"),
        (replace(VIEW, state="out of service", out_of_service="by hand"), "false"),
    ],
)
async def test_whether_a_board_is_in_service(query: str, asked: FindBoard, view: BoardView, said: str) -> None:
    client = serving("admin").answering(Boards=[replace(VIEW, z=0, out_of_service="x"), view])
    answer = await client.get(f"admin/board?machine=m&{query}")
    assert (answer.status, answer.text) == (200, said)
    assert client.server.asked == [asked, commands.Boards(machine="m")]


BOARD: dict[str, Any] = {"machine": "m", "x": 5, "y": 7, "z": 1}


@pytest.mark.parametrize(
    ("body", "said", "command"),
    [
        ("true", "true", commands.EnableBoard(**BOARD)),
        (" TRUE\n", "true", commands.EnableBoard(**BOARD)),
        ("false", "false", commands.DisableBoard(**BOARD, reason="switched off by alice by HTTP")),
    ],
)
async def test_a_board_is_taken_out_of_service_and_returned(body: str, said: str, command: Any) -> None:
    client = serving("admin")
    answer = await ask(client, "PUT", "admin/board?machine=m&address=10.1.1.2", body)
    assert (answer.status, answer.text) == (200, said)
    assert client.server.asked[-1] == command


@pytest.mark.parametrize("body", ["banana", "", "1", "truefalse"])
async def test_other_words_change_nothing(body: str) -> None:
    client = serving("admin")
    assert (await client.send("PUT", "admin/board?machine=m&x=5&y=7&z=1", body.encode(), "text/plain")).status == 400
    assert client.server.asked == []


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("machine=m", 400, "You need to supply coordinates"),
        ("machine=m&x=1&y=2", 400, "You need to supply coordinates"),
        ("x=0&y=0&z=0", 400, "machine name is required"),
        ("machine=&x=0&y=0&z=0", 400, "machine name is required"),
        ("machine=m&x=%2B1", 400, "x: "),
    ],
)
async def test_a_board_must_be_named(query: str, status: int, said: str) -> None:
    answer = await serving("admin").get(f"admin/board?{query}")
    assert (answer.status, answer.text[: len(said)]) == (status, said)


async def test_a_board_that_is_not_there_is_not_found() -> None:
    client = serving("admin").answering(FindBoard=None)
    assert (await client.get("admin/board?machine=m&x=0&y=0&z=0")).summary == (404, "no such board")


# -------------------------------------------------------------------- the document and its page


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("openapi.json", "application/json"),
        ("try.html", "text/html"),
        ("try.js", "text/javascript"),
        ("try.css", "text/css"),
    ],
)
async def test_everybody_may_read_how_the_service_is_used(path: str, kind: str) -> None:
    client = serving("basic")
    answer = await client.send("GET", f"/spalloc/srv/{path}", caller=None)
    assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, kind)
    assert b"http://" not in answer.body
    assert b"https://" not in answer.body
    assert (await client.send("HEAD", f"/spalloc/srv/{path}", caller=None)).body == b""


async def test_the_document_says_what_the_code_that_checks_bodies_says() -> None:
    document = await serving("basic").document()
    body = document["components"]["schemas"]["CreateBody"]
    assert body["additionalProperties"] is False
    assert body["properties"]["keepalive-interval"]["anyOf"][0] == {"type": "number", "minimum": 30, "maximum": 300}
    text = msgspec.json.encode(document).decode()
    references = {*msgspec.json.decode(msgspec.json.encode([*_references(document)]))}
    names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references <= names
    assert BASE not in text


async def test_the_document_says_that_a_body_is_needed_wherever_one_is_read() -> None:
    paths = (await serving("basic").document())["paths"].values()
    bodies = [each["requestBody"] for methods in paths for each in methods.values() if "requestBody" in each]
    assert len(bodies) > 8
    assert all(body["required"] for body in bodies)


def _references(value: Any) -> Any:
    if isinstance(value, dict):
        yield from ([value["$ref"]] if "$ref" in value else [])
        value = [*value.values()]
    if isinstance(value, list):
        for each in value:
            yield from _references(each)


async def test_no_two_operations_have_one_name() -> None:
    paths = (await serving("basic").document())["paths"].values()
    names = [operation["operationId"] for methods in paths for operation in methods.values()]
    assert len({*names}) == len(names)
