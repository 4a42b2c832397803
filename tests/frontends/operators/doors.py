"""A local API socket before an application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from spalloc_server.frontends.local_api import socket_path
from spalloc_server.frontends.operators.service import Operators
from tests.application.house import House
from tests.frontends.operators.speaking import HELLO, Operator


class Door:
    """A socket before an application."""

    def __init__(self, house: House, operators: Operators, path: Path, stack: AsyncExitStack) -> None:
        self.house, self.operators, self.path, self._stack = house, operators, path, stack

    async def connect(self, sent: bytes = HELLO) -> Operator:
        operator = await Operator.at(self.path, sent)
        self._stack.callback(operator.close)
        return operator


@asynccontextmanager
async def a_door(folder: Path) -> AsyncIterator[Door]:
    """The socket of a state in this folder."""
    house = await House.built()
    async with AsyncExitStack() as stack:
        operators = Operators(house.application, state=folder / "s", complain=lambda *_, **__: None)
        await stack.enter_async_context(operators)
        yield Door(house, operators, socket_path(folder / "s"), stack)
