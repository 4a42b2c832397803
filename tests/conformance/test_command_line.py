"""The published command-line programs, as users type them."""

from __future__ import annotations

import csv
import re
import signal
from typing import Any

import pytest

from tests.conformance.clients import Client
from tests.conformance.conftest import FAULTY, LONE, MAIN
from tests.conformance.faults import fault_of
from tests.conformance.servers import Server, until

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]  # the first run installs the clients

OWNER = ("--owner", "someone@example.org")
SUBSTITUTIONS = "echo {} {hostname} {w} {width} {h} {height} {id}; cat {ethernet_ips}"
READY, DESTROYED = 3, 4
INTERRUPTED = 4
"""Exit status of `spalloc` after ctrl+c."""


def ready_job(server: Server, *sizes: int, **kwargs: Any) -> int:
    """A job that is ready, its keepalive not watched over."""
    with server.connect() as connection:
        job_id: int = connection.call("create_job", *sizes, **{"owner": OWNER[1], "keepalive": None} | kwargs)
        until(f"job {job_id} to be ready", lambda: connection.call("get_job_state", job_id)["state"] == READY)
    return job_id


def call(server: Server, command: str, *args: Any, **kwargs: Any) -> Any:
    with server.connect() as connection:
        return connection.call(command, *args, **kwargs)


def definitions(output: str) -> dict[str, str]:
    """The `Name: value` lines that the programs print."""
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in output.splitlines())}


@pytest.mark.parametrize(
    ("what", "size", "boards"),
    [
        ((), (8, 8), 1),
        ((1,), (8, 8), 1),
        ((2,), (16, 16), 2),
        ((3,), (16, 16), 3),
        ((5,), None, 5),
        ((24,), (48, 24), 24),
        ((2, 1), (28, 16), 6),
        ((1, 2), (16, 24), 6),
        ((4, 2), (48, 24), 24),
        ((3, 1, 2), (8, 8), 1),
    ],
)
def test_spalloc_runs_a_command_on_what_was_asked_for(
    client: Client, server: Server, what: tuple[int, ...], size: tuple[int, int] | None, boards: int
) -> None:
    command = ("-c", "sh", "-c", SUBSTITUTIONS)
    output = client.output(server, "spalloc", *OWNER, "--machine", "main", *what, *command)
    first, *table = output.splitlines()
    bare, hostname, *numbers = first.split()
    w, width, h, height, job_id = map(int, numbers)
    assert bare == hostname
    assert (w, h) == (width, height)
    if size is not None:
        assert (w, h) == size
    rows = list(csv.DictReader(table))
    assert list(rows[0]) == ["x", "y", "hostname"]
    hosts = {(int(row["x"]), int(row["y"])): row["hostname"] for row in rows}
    assert hosts[0, 0] == hostname
    assert boards <= len(hosts) == len(rows)
    assert set(hosts.values()) <= set(MAIN.addresses().values())
    if len(what) == 3:
        assert hostname == MAIN.addresses()[3, 1, 2]
    until("the job to end with its command", lambda: call(server, "get_job_state", job_id)["state"] == DESTROYED)


def test_spalloc_ends_as_its_command_ends(client: Client, server: Server) -> None:
    assert client.run(server, "spalloc", *OWNER, "-c", "sh", "-c", "exit 7").returncode == 7
    assert client.run(server, "spalloc", *OWNER, "-c", "true").returncode == 0


@pytest.mark.parametrize(
    "what",
    [(99, 99), (25, "--machine", "main"), (9, 9, 9, "--machine", "main"), ("--machine", "nowhere"), ("--tags", "none")],
)
def test_spalloc_tells_why_a_job_cannot_be(client: Client, server: Server, what: tuple[object, ...]) -> None:
    done = client.run(server, "spalloc", *OWNER, *what)
    assert done.returncode == 1
    assert "Destroyed: Cancelled: No suitable machines available." in done.stderr


def test_spalloc_without_a_command_describes_the_boards_and_waits(client: Client, server: Server) -> None:
    with client.start(server, "spalloc", *OWNER, 1, 1, "--machine", "main") as session:
        session.line("Ready!")
        session.line("Running on")
        until("the job to be listed", lambda: len(call(server, "list_jobs")) == 1)
        session.say()
        session.process.wait(20)
        described = definitions("\n".join(session.seen + session.rest()))
    assert (described["Width"], described["Height"], described["Num boards"]) == ("16", "16", "3")
    assert described["Hostname"] in MAIN.addresses().values()
    assert described["Running on"] == "main"
    assert session.process.returncode == 0
    until("the job to end", lambda: not call(server, "list_jobs"))


def test_spalloc_waits_in_the_queue(client: Client, server: Server) -> None:
    first = ready_job(server, 4, 2, machine="main")
    with client.start(server, "spalloc", *OWNER, 4, 2, "--machine", "main", "-c", "echo", "at last") as session:
        session.line("Waiting in queue...")
        call(server, "destroy_job", first)
        session.line("at last")
        assert session.process.wait(20) == 0


def test_spalloc_destroys_its_job_when_it_is_interrupted(client: Client, server: Server) -> None:
    first = ready_job(server, 4, 2, machine="main")
    with client.start(server, "spalloc", *OWNER, 4, 2, "--machine", "main") as session:
        session.line("Waiting in queue...")
        assert session.interrupt() == INTERRUPTED
    assert [job["job_id"] for job in call(server, "list_jobs")] == [first]


def test_spalloc_hears_that_its_job_was_destroyed(client: Client, server: Server) -> None:
    first = ready_job(server, 4, 2, machine="main")
    with client.start(server, "spalloc", *OWNER, 4, 2, "--machine", "main") as session:
        session.line("Waiting in queue...")
        (waiting,) = (job["job_id"] for job in call(server, "list_jobs") if job["job_id"] != first)
        call(server, "destroy_job", waiting, "no more")
        session.line("Destroyed: Cancelled: no more")
        assert session.process.wait(20) == 1


@pytest.mark.parametrize(
    ("options", "args", "changed"),
    [
        (("--tags", "small", "faulty"), [], {"tags": ["faulty", "small"]}),
        (("--tags", "lone"), [], {"tags": ["lone"]}),
        (("--machine", "faulty", 3), [3], {"machine": "faulty", "tags": None}),
        ((6, "--min-ratio", "0.5"), [6], {"min_ratio": 0.5}),
        (("--machine", "faulty", 3, 2, "--max-dead-boards", 2), [3, 2], {
            "machine": "faulty", "tags": None, "max_dead_boards": 2}),
        (("--machine", "faulty", 3, 2, "--max-dead-boards", -1, "--max-dead-links", 4), [3, 2], {
            "machine": "faulty", "tags": None, "max_dead_boards": None, "max_dead_links": 4}),
        ((4, 2, "--require-torus"), [4, 2], {"require_torus": True}),
        (("--require-torus", "--no-require-torus", 1), [1], {}),
        (("--keepalive", 300), [], {}),
        (("--keepalive", -1), [], {}),
    ],
)  # fmt: skip
def test_spalloc_options_make_the_job_that_they_name(
    client: Client, server: Server, options: tuple[object, ...], args: list[int], changed: dict[str, Any]
) -> None:
    client.output(server, "spalloc", *OWNER, "--no-destroy", *options, "-c", "true")
    (job,) = call(server, "list_jobs")
    defaults = {
        "machine": None,
        "tags": ["default"],
        "min_ratio": 0.333,
        "max_dead_boards": 0,
        "max_dead_links": None,
        "require_torus": False,
    }
    kwargs = job["kwargs"]
    if kwargs["tags"]:
        kwargs["tags"].sort()
    assert kwargs == defaults | changed
    assert (job["args"], job["owner"], job["state"], job["power"]) == (args, OWNER[1], READY, True)
    wanted = dict(zip(options[::2], options[1::2], strict=False)).get("--keepalive", 60)
    assert job["keepalive"] == (None if wanted == -1 else wanted)
    machine = {"faulty": FAULTY, "lone": LONE, "main": MAIN}[job["allocated_machine_name"]]
    assert {tuple(board) for board in job["boards"]} <= set(machine.locations())
    assert set(changed.get("tags") or []) <= machine.tags


def test_spalloc_resumes_a_job(client: Client, server: Server) -> None:
    job_id = ready_job(server, 2, 1, machine="main", keepalive=60.0)
    output = client.output(server, "spalloc", "--resume", job_id, "-c", "echo", "{id}", "{w}", "{h}")
    assert output.split() == [str(job_id), "28", "16"]
    assert call(server, "get_job_state", job_id)["state"] == DESTROYED


def test_spalloc_refuses_to_resume_what_is_gone(client: Client, server: Server) -> None:
    for job_id, reason in ((ready_job(server), "over"), (987654, None)):
        call(server, "destroy_job", job_id, reason)
        done = client.run(server, "spalloc", "--resume", job_id, "-c", "true")
        assert done.returncode != 0
        assert f"Job {job_id} does not exist" in done.stderr


def test_spalloc_ps_lists_and_filters(client: Client, server: Server) -> None:
    on_main = ready_job(server, 2, 1, machine="main", owner="alice")
    on_faulty = ready_job(server, 3, machine="faulty", owner="bob")
    queued = call(server, "create_job", 4, 2, machine="main", owner="carol", keepalive=77)
    call(server, "power_off_job_boards", on_faulty)
    until("the power to be off", lambda: call(server, "get_job_state", on_faulty)["state"] == READY)

    def rows(*options: str) -> dict[int, list[str]]:
        _header, *lines = client.output(server, "spalloc-ps", *options).splitlines()
        return {int(line.split()[0]): line.split() for line in lines if line.strip()}

    everything = rows()
    assert list(everything) == [on_main, on_faulty, queued]
    assert everything[on_main][1:5] == ["ready", "on", "6", "main"]
    assert everything[on_faulty][1:3] == ["ready", "off"]
    assert everything[on_faulty][4] == "faulty"
    assert everything[queued][1] == "queue"
    assert {"77.0", "carol"} <= set(everything[queued])
    assert list(rows("--machine", "faulty")) == [on_faulty]
    assert list(rows("--owner", "carol")) == [queued]
    assert rows("--owner", "nobody") == {}


def test_spalloc_ps_watches(client: Client, server: Server) -> None:
    with client.start(server, "spalloc-ps", "--watch") as session:
        session.line("Owner")
        job_id = ready_job(server, owner="newcomer")
        session.line(str(job_id), "newcomer", "ready")
        call(server, "destroy_job", job_id)
        session.line("Owner")
        session.stop_watching()


def test_spalloc_job_describes_a_job(client: Client, server: Server) -> None:
    job_id = ready_job(server, 2, 1, machine="main", tags=None)
    info = call(server, "get_job_machine_info", job_id)
    for arguments in ((job_id,), (job_id, "--info"), OWNER):
        described = definitions(client.output(server, "spalloc-job", *arguments))
        assert described["Job ID"] == str(job_id)
        assert described["State"] == "ready"
        assert described["Request"].startswith("Job(2, 1")
        assert described["Hostname"] == {tuple(chip): host for chip, host in info["connections"]}[0, 0]
        assert (described["Width"], described["Height"], described["Num boards"]) == ("28", "16", "6")
        assert (described["Board power"], described["Running on"]) == ("on", "main")


def test_spalloc_job_describes_jobs_without_boards(client: Client, server: Server) -> None:
    ready_job(server, 4, 2, machine="main", owner="other")
    queued = call(server, "create_job", 4, 2, machine="main", owner=OWNER[1])
    assert definitions(client.output(server, "spalloc-job", queued))["State"] == "queued"
    assert client.run(server, "spalloc-job", queued, "--ethernet-ips").returncode == 9
    call(server, "destroy_job", queued, "no reason at all")
    gone = definitions(client.output(server, "spalloc-job", queued))
    assert (gone["State"], gone["Reason"]) == ("destroyed", "Cancelled: no reason at all")
    assert definitions(client.output(server, "spalloc-job", 987654))["State"] == "unknown"


def test_spalloc_job_lists_addresses(client: Client, server: Server) -> None:
    job_id = ready_job(server, 2, 1, machine="main")
    header, *rows = client.output(server, "spalloc-job", job_id, "--ethernet-ips").splitlines()
    info = call(server, "get_job_machine_info", job_id)
    assert header == "x,y,hostname"
    assert rows == [f"{x},{y},{host}" for (x, y), host in sorted(info["connections"])]


@pytest.mark.parametrize(("option", "power"), [("--power-off", False), ("--power-on", True), ("--reset", True)])
def test_spalloc_job_switches_power_and_waits(client: Client, server: Server, option: str, power: bool) -> None:
    job_id = ready_job(server, 1, 1, machine="main")
    client.output(server, "spalloc-job", job_id, option)
    state = call(server, "get_job_state", job_id)
    assert (state["state"], state["power"]) == (READY, power)


def test_spalloc_job_cannot_switch_a_queued_job(client: Client, server: Server) -> None:
    ready_job(server, 4, 2, machine="main")
    queued = call(server, "create_job", 4, 2, machine="main", owner="patient")
    done = client.run(server, "spalloc-job", queued, "--power-off")
    assert "in state queued" in done.stderr
    assert done.returncode == 8


def test_spalloc_job_destroys(client: Client, server: Server) -> None:
    first, second = ready_job(server), ready_job(server, owner="other")
    client.output(server, "spalloc-job", first, *OWNER, "--destroy")
    client.output(server, "spalloc-job", second, "--destroy", "for a reason")
    assert call(server, "get_job_state", first)["reason"] == f"Destroyed by {OWNER[1]}"
    assert call(server, "get_job_state", second)["reason"] == "for a reason"


def test_spalloc_job_watches(client: Client, server: Server) -> None:
    job_id = ready_job(server)
    with client.start(server, "spalloc-job", job_id, "--watch") as session:
        session.line("ready")
        call(server, "power_off_job_boards", job_id)
        session.line("off")
        call(server, "destroy_job", job_id, "seen enough")
        session.line("seen enough")
        session.stop_watching()


def test_spalloc_machine_lists_machines(client: Client, server: Server) -> None:
    ready_job(server, 2, 1, machine="main")
    header, *lines = client.output(server, "spalloc-machine").splitlines()
    assert header.split() == ["Name", "Num", "boards", "In-use", "Jobs", "Tags"]
    rows = [line.replace(",", "").split() for line in lines if line.strip()]
    assert [row[:4] for row in rows] == [
        ["main", "24", "6", "1"],
        ["faulty", "16", "0", "0"],
        ["lone", "1", "0", "0"],
    ]
    assert [sorted(row[4:]) for row in rows] == [["default"], ["faulty", "small"], ["lone", "small"]]


def test_spalloc_machine_draws_a_machine(client: Client, server: Server) -> None:
    job_id = ready_job(server, 2, 1, machine="faulty", owner="artist")
    boards = len(call(server, "get_job_machine_info", job_id)["boards"])
    compact = client.output(server, "spalloc-machine", "faulty")
    assert definitions(compact)["In-use"] == f"{boards} of 16"
    assert re.search(r"___/\s", compact)
    assert f"A:{job_id}" in compact
    detailed = client.output(server, "spalloc-machine", "faulty", "--detailed")
    assert re.search(rf"\bA\s+{job_id}\s+{boards}\s+artist", detailed)
    unknown = client.run(server, "spalloc-machine", "nowhere")
    assert unknown.returncode == 6
    assert "nowhere" in unknown.stderr


@pytest.mark.parametrize("machine", [(), ("main",)])
def test_spalloc_machine_watches(client: Client, server: Server, machine: tuple[str, ...]) -> None:
    with client.start(server, "spalloc-machine", "--watch", *machine) as session:
        session.line("In-use: 0 of 24" if machine else "main")
        ready_job(server, 2, 1, machine="main")
        session.line("In-use: 6 of 24" if machine else "6     1")
        session.stop_watching()


def where_is(client: Client, server: Server, *form: object) -> dict[str, str] | None:
    """What the program says; None where the client's own fault keeps it from saying anything."""
    fault = fault_of(client.version, "where-is-by-machine")
    if fault and form[0] != "--job-chip":
        done = client.run(server, "spalloc-where-is", *form)
        assert done.returncode == 1
        assert fault.evidence in done.stderr
        return None
    return definitions(client.output(server, "spalloc-where-is", *form))


def test_spalloc_where_is_finds_boards(client: Client, server: Server) -> None:
    job_id = ready_job(server, 3, 1, 2, machine="main")
    by_board = where_is(client, server, "--board", "main", 3, 1, 2)
    by_place = where_is(client, server, "--physical", "main", 1, 0, 23)
    by_chip = where_is(client, server, "--chip", "main", 41, 22)
    by_job = where_is(client, server, "--job-chip", job_id, 1, 2)
    everywhere = {
        "Machine": "main",
        "Physical location": "Cabinet 1, Frame 0, Board 23",
        "Board coordinate": "(3, 1, 2)",
        "Job using board": str(job_id),
    }
    ethernet = everywhere | {"Machine chip coordinates": "(40, 20)", "Coordinates within job": "(0, 0)"}
    chip = everywhere | {
        "Machine chip coordinates": "(41, 22)",
        "Coordinates within board": "(1, 2)",
        "Coordinates within job": "(1, 2)",
    }
    assert by_board in (ethernet, None)
    assert by_place in (ethernet, None)
    assert by_chip in (chip, None)
    assert by_job == chip


def test_spalloc_where_is_finds_nothing(client: Client, server: Server) -> None:
    job_id = ready_job(server, machine="main")
    for form in (("--job-chip", job_id, 8, 8), ("--job-chip", 987654, 0, 0), ("--board", "faulty", 0, 0, 2)):
        if form[0] != "--job-chip" and fault_of(client.version, "where-is-by-machine"):
            continue
        done = client.run(server, "spalloc-where-is", *form)
        assert "No boards at the specified location" in done.stderr
        assert done.returncode == 4


def test_programs_tell_that_no_server_is_there(client: Client, server: Server) -> None:
    nobody = Server("nobody", 1, server.log)
    assert client.run(nobody, "spalloc", *OWNER, "-c", "true").returncode == 6
    for tool in ("spalloc-ps", "spalloc-machine"):
        assert client.run(nobody, tool).returncode == 1


def test_a_killed_spalloc_leaves_no_job_behind(client: Client, server: Server) -> None:
    with client.start(server, "spalloc", *OWNER, "--keepalive", 1, "--machine", "main") as session:
        session.line("Ready!")
        (job,) = call(server, "list_jobs")
        session.process.send_signal(signal.SIGKILL)
        until("the job to time out", lambda: not call(server, "list_jobs"), seconds=15)
    assert call(server, "get_job_state", job["job_id"])["reason"] == "Job timed out."
