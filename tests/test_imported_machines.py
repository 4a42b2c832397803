"""A running server gets another machine: its BMPs are watched at once, it takes jobs, and a restart has it still."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import structlog

from spalloc_server.server import Server
from spalloc_server.simulator.simulator import Simulator
from tests.frontends.operators.speaking import Operator
from tests.house import Client, Place
from tests.processes import ServerProcess, running

READY, DESTROYED = 3, 4
FILE = json.loads((Path(__file__).parent / "data" / "definitions" / "three-board-example.json").read_text())


def definitions(place: Place, name: str = "annex") -> str:
    """A machine of three boards whose BMP is the place's second, over several lines."""
    machine = {**FILE["machines"][0], "name": name, "bmp-ips": {"[c:0,f:0]": place.hosts[1]}}
    return json.dumps({**FILE, "machines": [machine]}, indent=2)


async def ask(place: Place, command: str, **fields: object) -> Any:
    async with Operator.of(place) as operator:
        reply = await operator.say({"command": command, **fields})
        return reply.get("return", reply.get("error", {}).get("text"))


async def a_job(server: Server | ServerProcess, machine: str = "annex") -> int:
    """A job of one board, which is ready."""
    client = await Client.connect(server.address)
    job_id = await client.create(machine=machine)
    await client.until(job_id, READY)
    await client.close()
    return job_id


def in_toml(place: Place, *names: str) -> None:
    """Let the config file have the machine m, and besides it the imported one under these names."""
    text = place.config.read_text()
    for name in names:
        bmps = f"{{(0, 0): {place.hosts[1]!r}}}"
        more = f"Machine.with_standard_ips({name!r}, board_locations={{(0, 0, z): (0, 0, z) for z in range(3)}})"
        text = text.replace("Configuration([machine", f"Configuration([machine, {more}._replace(bmp_ips={bmps})")
    place.config.write_text(text)


async def test_an_imported_machine_takes_jobs_at_once_and_after_a_restart_and_can_be_removed(place: Place) -> None:
    async with place.simulator(), Simulator({place.hosts[1]: range(24)}) as annex:
        async with place.serving() as server:
            (view,) = await ask(place, "import machines", definitions=definitions(place))
            assert (view["name"], view["imported"], view["boards"]) == ("annex", True, {"free": 3})
            assert server._hardware._frames[place.hosts[1]].watched
            job_id = await a_job(server)
            on = annex.boards_on()
            assert len(on) == 1
        async with place.serving() as server:
            assert [machine["name"] for machine in await ask(place, "machines")] == ["m", "annex"]
            assert server._hardware._frames[place.hosts[1]].watched
            client = await Client.connect(server.address)
            assert (await client.call("get_job_state", job_id))["state"] == READY
            assert annex.boards_on() == on
            assert await a_job(server) == job_id + 1
            await client.call("notify_job", job_id)
            assert await ask(place, "remove machine", machine="annex") is None
            assert (await client.until(job_id, DESTROYED))["reason"] == "Machine removed."
            assert server._hardware._frames[place.hosts[1]].dropped
            await client.close()
        assert not annex.boards_on()
        async with place.serving() as server:
            assert list(server.controller.machines) == ["m"]


async def test_an_upgrade_a_kill_and_a_reload_leave_it_and_its_jobs_alone(place: Place) -> None:
    async with place.simulator(), Simulator({place.hosts[1]: range(24)}) as annex, running(place) as server:
        await ask(place, "import machines", definitions=definitions(place))
        job_id, before = await a_job(server), annex.power_cycles()
        server.signal(signal.SIGUSR2)
        await server.serves()
        server.signal(signal.SIGHUP)
        assert [view["name"] for view in await ask(place, "machines")] == ["m", "annex"]
        await server.kill()
        server = await ServerProcess.start(place)
        client = await Client.connect(server.address)
        assert (await client.call("get_job_state", job_id))["state"] == READY
        assert [view["imported"] for view in await ask(place, "machines")] == [False, True]
        assert annex.power_cycles() == before
        await client.close()
        await server.kill()


async def test_an_imported_machine_outlives_a_cold_start_which_switches_its_boards_off(place: Place) -> None:
    async with place.simulator(), Simulator({place.hosts[1]: range(24)}) as annex:
        async with place.serving() as server:
            await ask(place, "import machines", definitions=definitions(place))
            await a_job(server)
        async with place.serving(cold_start=True) as server:
            assert list(server.controller.imported) == ["annex"]
        assert not annex.boards_on()


@pytest.mark.parametrize("name", ["annex", "other"])
async def test_the_config_file_wins_on_a_name_or_an_address_and_the_log_says_so(place: Place, name: str) -> None:
    async with place.simulator(), Simulator({place.hosts[1]: range(24)}):
        async with place.serving() as server:
            await ask(place, "import machines", definitions=definitions(place))
            in_toml(place, name)
            with structlog.testing.capture_logs() as log:
                server.reload()
            told = [line for line in log if line["event"] == "the configuration takes the place of imported machines"]
            assert [(line["log_level"], line["machines"]) for line in told] == [("warning", ["annex"])]
            assert list(server.controller.machines) == ["m", name]
            assert not server.controller.imported
        with structlog.testing.capture_logs() as log:
            async with place.serving() as server:
                assert list(server.controller.machines) == ["m", name]
        assert not [line for line in log if "imported" in line["event"]]


async def test_the_audit_names_the_machines_and_leaves_out_the_rest(place: Place) -> None:
    async with place.simulator(), place.serving():
        with structlog.testing.capture_logs() as log:
            await ask(place, "import machines", definitions=definitions(place))
            told = await ask(place, "import machines", definitions=definitions(place))
            bad = await ask(place, "import machines", definitions="{}")
            await ask(place, "remove machine", machine="annex")
    assert "there is a machine 'annex' already, which is imported" in str(told)
    assert bad == "the file: machines is missing, and must be a list of machines"
    audit = [line for line in log if line["event"].startswith("command ")]
    assert [(line["command"], line.get("machines"), line["outcome"].split(":")[0]) for line in audit] == [
        ("import machines", ["annex"], "stored"),
        ("import machines", ["annex"], "refused"),
        ("import machines", [], "refused"),
        ("remove machine", None, "stored"),
    ]
    assert not any("definitions" in line for line in audit)
