"""Commands that wait for hardware: temperatures, blacklists in boards' flash, and power cycles.

Theory of operation. Each waits with a deadline, and only so many wait at the same time. A blacklist that is being
written is written to its end, whatever becomes of who asked for it: flash that is half written is of no use. A power
cycle is a self-test that begins now; its end is a change of the machine like any other, which is subscribed to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from spalloc_server.application import commands
from spalloc_server.application.performing import board_of
from spalloc_server.application.subscriptions import Key, Kind, Subscriptions
from spalloc_server.application.views import TemperaturesView
from spalloc_server.config.machine import Machine
from spalloc_server.controller import Controller
from spalloc_server.coordinates import Board
from spalloc_server.core.model import BoardView
from spalloc_server.errors import BusyError, HardwareError, RequestError
from spalloc_server.hardware.blacklist import read_blacklist
from spalloc_server.hardware.switchboard import Hardware

__all__ = ["AtHardware"]

MAX_AT_HARDWARE = 32
"""Commands that may wait for hardware at the same time."""

POWER_CYCLE_SECONDS = 120.0
"""The longest wait for a power cycle, which waits for its turn in its frame."""

READ_AT_ONCE = 16
"""Boards whose sensors are read at the same time; `Hardware` bounds what may wait for it."""


class AtHardware:
    """Asks hardware.

    Args:
        core: knows where boards are, and whose.
        hardware: has them.
        subscriptions: tell when a machine has changed.
    """

    def __init__(self, core: Controller, hardware: Hardware, subscriptions: Subscriptions) -> None:
        self.waiting = 0
        """Commands that wait for hardware."""
        self._core = core
        self._hardware = hardware
        self._subscriptions = subscriptions
        self._writing: set[asyncio.Task[list[str]]] = set()

    @property
    def writing(self) -> bool:
        """Whether a board's flash is being written, which must not be cut off."""
        return bool(self._writing)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Be one of those who wait, within; `BusyError` where too many do already."""
        if self.waiting >= MAX_AT_HARDWARE:
            raise BusyError(f"{MAX_AT_HARDWARE} commands wait for hardware already; try again later")
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    async def perform(self, command: commands.Command) -> Any:
        """Return the answer to a command that changes nothing which is stored.

        Raises:
            RequestError: it makes no sense.
            HardwareError: the hardware does not do it.
        """
        match command:
            case commands.Temperatures():
                return await self._temperatures(command)
            case commands.Blacklist():
                return await read_blacklist(partial(self._hardware.ask, *self._address(command)))
            case commands.SetBlacklist():
                return await self._write_blacklist(command)
            case _:
                raise TypeError(f"{type(command).__name__} is not for hardware")

    async def power_cycled(self, command: commands.PowerCycle) -> BoardView:
        """Wait until a board that is being tried has been."""
        board, machine = board_of(command), Key(Kind.MACHINE, command.machine)
        try:
            async with asyncio.timeout(POWER_CYCLE_SECONDS):
                while True:
                    revision = self._subscriptions.revision(machine)
                    view = self._core.board_view(command.machine, board)
                    if view.state != "on trial":
                        return view
                    await self._subscriptions.wait(machine, revision, POWER_CYCLE_SECONDS)
        except RequestError as exc:
            raise RequestError(f"the power cycle was cut off: {exc}") from None
        except TimeoutError:
            told = f"board {board} of {command.machine} is still being tried; look again later"
            raise HardwareError(told) from None

    async def _write_blacklist(self, command: commands.SetBlacklist) -> list[str]:
        writing = asyncio.create_task(self._hardware.write_blacklist(*self._address(command), command.lines))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        return await asyncio.shield(writing)

    def _address(self, command: commands.Blacklist | commands.SetBlacklist) -> tuple[str, int]:
        """(BMP, number) of a board; of one that no job has, where it is to be changed."""
        board = board_of(command)
        view = self._core.board_view(command.machine, board)
        if view.bmp is None or view.board is None:
            raise RequestError(f"board {board} of {command.machine} has no place in a frame")
        if isinstance(command, commands.SetBlacklist) and view.job_id is not None:
            raise RequestError(f"job {view.job_id} has board {board} of {command.machine}")
        return view.bmp, view.board

    async def _temperatures(self, command: commands.Temperatures) -> list[TemperaturesView]:
        machine = self._core.machines.get(command.machine)
        if machine is None:
            raise RequestError(f"there is no machine {command.machine!r}")
        frames = [
            frame for frame in machine.frames if command.cabinet is None or frame == (command.cabinet, command.frame)
        ]
        if not frames:
            raise RequestError(f"{command.machine} has no cabinet {command.cabinet}, frame {command.frame}")
        turns = asyncio.Semaphore(READ_AT_ONCE)
        boards = [board for board in machine.live_boards if machine.board_locations[board][:2] in frames]
        return await asyncio.gather(*(self._temperature(machine, board, turns) for board in boards))

    async def _temperature(self, machine: Machine, board: Board, turns: asyncio.Semaphore) -> TemperaturesView:
        cabinet, frame, number = machine.board_locations[board]
        x, y, z = board
        view = TemperaturesView(machine=machine.name, x=x, y=y, z=z, cabinet=cabinet, frame=frame, board=number)
        async with turns:
            try:
                adc = await self._hardware.read_temperatures(machine.bmp_ips[cabinet, frame], number)
            except HardwareError as exc:
                view.error = str(exc)
            else:
                for name in ("top", "bottom", "external", "fans", "volts_supply", "warning", "shutdown"):
                    setattr(view, name, getattr(adc, name))
        return view
