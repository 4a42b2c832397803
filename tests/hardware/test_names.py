"""Names of hosts: a name service that hangs holds up nobody but who asks for that very name, and that not for long."""

from __future__ import annotations

import asyncio
import threading
from unittest import mock

import pytest

from spalloc_server.hardware import names
from spalloc_server.hardware.names import Names, NoNameService
from tests.hardware.name_service import hanging_names
from tests.house import PATIENCE
from tests.test_server import until

MANY = 40
"""More than any pool of threads has."""


async def test_an_address_is_its_own_and_no_name_service_is_asked() -> None:
    with hanging_names() as service:
        assert await Names().address("127.0.0.1", PATIENCE) == "127.0.0.1"
    assert service.asked == []


async def test_names_that_hang_keep_no_other_name_waiting() -> None:
    with hanging_names() as service:
        service.addresses["good.lab"] = "127.0.0.9"
        finder = Names()
        stuck = [asyncio.create_task(finder.address(f"bmp-{n}.hangs", PATIENCE)) for n in range(MANY)]
        await until(lambda: len(service.asked) == MANY)
        assert await finder.address("good.lab", PATIENCE) == "127.0.0.9"
        assert not any(task.done() for task in stuck)
        service.recover()
        told = await asyncio.gather(*stuck, return_exceptions=True)
    assert {str(error) for error in told} == {"Name or service not known"}


async def test_who_asks_is_told_at_the_deadline_and_the_name_is_not_asked_for_twice_meanwhile() -> None:
    finder = Names()
    with hanging_names() as service:
        for _ in range(3):
            with pytest.raises(NoNameService, match=r"the name service does not answer within 0\.01 s"):
                await finder.address("bmp.hangs", 0.01)
        assert service.asked == ["bmp.hangs"]
        service.addresses["bmp.hangs"] = "127.0.0.9"
        service.recover()
        assert await finder.address("bmp.hangs", PATIENCE) == "127.0.0.9"


async def test_only_so_many_names_are_looked_up_at_once() -> None:
    finder = Names()
    with hanging_names(), mock.patch.object(names, "MAX_LOOKUPS", 2):
        stuck = [asyncio.create_task(finder.address(f"{n}.hangs", PATIENCE)) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(NoNameService, match="the name service has 2 other names to answer for"):
            await finder.address("good.lab", PATIENCE)
    await asyncio.gather(*stuck, return_exceptions=True)


async def test_a_host_that_has_only_an_ipv6_address_is_told_as_such() -> None:
    with pytest.raises(OSError, match="it has no IPv4 address"):
        await Names().address("::1", PATIENCE)


def test_an_event_loop_ends_although_a_name_is_being_looked_up() -> None:
    async def give_up() -> None:
        with pytest.raises(NoNameService):
            await Names().address("bmp.hangs", 0.01)

    with hanging_names():
        asyncio.run(give_up())
        lookups = [thread for thread in threading.enumerate() if thread.name == "name service: bmp.hangs"]
        assert [(thread.is_alive(), thread.daemon) for thread in lookups] == [(True, True)]


async def test_any_other_error_of_the_name_service_is_told_to_who_asks() -> None:
    finder = Names()
    for error in (PermissionError("not permitted"), UnicodeError("label too long")):
        with (
            mock.patch("socket.getaddrinfo", side_effect=error),
            pytest.raises(OSError, match=str(error)),
        ):
            await finder.address("bmp.lab", PATIENCE)
