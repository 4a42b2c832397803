"""One board management processor (BMP): a UDP socket with exactly one command in flight.

Theory of operation. A frame's boards are all reached through the BMP of its board 0, and that BMP has been seen to
crash when two commands reach it at once. So every command takes a fair lock, is sent, and is waited for, before the
next begins. The socket is connected, so datagrams from elsewhere never arrive; replies are matched on the sequence
number, which is fresh for each command and kept when the same command is sent again, so that a late answer still
counts and an answer to anything older does not.

How often a command is sent is data (`Policy`). Reads and register writes have the same effect however often they are
done, and are sent again until they are answered. Power commands (and resets) are sent once: switching on boards that
are on resets them, so the caller has to read back what happened before it tries again. So are those that erase flash,
which takes long and wears it. A refusal that says that the
BMP had no room or took a damaged packet left nothing behind and may always be tried again; a refusal that came from
beyond the BMP may have had its effect and counts as no answer where the command must not be repeated.

The host's address is asked for (`names`) whenever the socket is opened: at first, and once the BMP has fallen silent.

A BMP that answers none of the tries is *silent*: from then on every command fails at once with the reason, until a
`probe` is answered.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from spalloc_server.errors import HardwareError
from spalloc_server.hardware.names import Names, NoNameService
from spalloc_server.hardware.scp import SCP_PORT, BadPacket, Command, Request, Response, ResponseCode
from spalloc_server.hardware.timings import Timings

__all__ = ["Bmp", "FindAddress", "NoAnswer", "Policy", "Refused", "Silent"]

READ_GRACE_S: Final = 0.001
"""Time to read answers that have arrived, after a wait in which the event loop may have been blocked."""

PROBE_TRIES: Final = 3
"""Times that a probe of a silent BMP is sent before the next pause."""

_ONCE: Final = frozenset({Command.POWER, Command.RESET, Command.XILINX, Command.FLASH_ERASE, Command.FLASH_WRITE})
_NOT_ACCEPTED: Final = frozenset({ResponseCode.LEN, ResponseCode.SUM, ResponseCode.BUF, ResponseCode.P2P_BUSY})
_UNDECIDED: Final = frozenset({ResponseCode.TIMEOUT, ResponseCode.P2P_NOREPLY, ResponseCode.P2P_TIMEOUT})
_FOR_THE_MOMENT: Final = _NOT_ACCEPTED | _UNDECIDED


FindAddress: TypeAlias = Callable[[str, float], Awaitable[str]]
"""Returns the address of a host within so many seconds, as `Names.address` does."""


class Refused(HardwareError):
    """The BMP answered that it would not, or could not, do a command."""


class NoAnswer(HardwareError):
    """It is not known whether the BMP did a command."""


class Silent(NoAnswer):
    """The BMP answers nothing at all; nothing is sent to it but probes."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How long a command waits for its answer, how often it is sent, and whether it may act twice."""

    reply_s: float
    tries: int
    repeatable: bool = True


class Bmp(asyncio.DatagramProtocol):
    """The way to one BMP. Nothing is opened or sent before the first command.

    It is the protocol of its socket. Errors that the network reports are losses like any other.
    """

    def __init__(
        self,
        host: str,
        timings: Timings,
        on_silent: Callable[[str], None],
        *,
        port: int = SCP_PORT,
        find_address: FindAddress | None = None,
    ) -> None:
        self.host = host
        self.silent: str | None = None
        """Why the BMP counts as silent; None while it does not."""
        self.commands = 0
        """Commands given so far."""
        self.resends = 0
        """Datagrams that had to be sent again."""
        self.strays = 0
        """Datagrams received that were not waited for."""
        self.in_flight = False
        """Whether a command has begun and has not ended yet."""
        self.timings = timings
        self._on_silent = on_silent
        self._port = port
        self._find_address = find_address or Names().address
        self._address: str | None = None
        """Where the host was found last."""
        self._lock = asyncio.Lock()
        self._may_begin = asyncio.Event()
        self._may_begin.set()
        self._transport: asyncio.DatagramTransport | None = None
        self._sequence = 0
        self._awaited: tuple[int, asyncio.Future[Response | None]] | None = None
        self._heard = self._begin_at = float("-inf")
        self._patient = Policy(timings.reply_s, timings.tries)
        self._once = Policy(timings.power_reply_s, 1, repeatable=False)
        self._probe = Policy(timings.reply_s, PROBE_TRIES)

    def silence_s(self) -> float:
        """Seconds since the BMP was last heard."""
        return asyncio.get_running_loop().time() - self._heard

    async def command(
        self,
        board: int,
        command: int,
        arg1: int = 0,
        arg2: int = 0,
        arg3: int = 0,
        data: bytes = b"",
        *,
        extra_s: float = 0.0,
    ) -> bytes:
        """Have `command` done for `board`, after those that wait already; return the payload of the answer.

        `extra_s` is added to the wait for an answer. Raises `Refused`; `Silent` where the BMP has fallen silent;
        `NoAnswer` where a command that must not be repeated was not answered.
        """
        policy = self._once if command in _ONCE else self._patient
        self.commands += 1
        for attempt in range(1, self.timings.refusal_tries + 1):
            request = Request(board, command, self._next_sequence(), arg1, arg2, arg3, data)
            async with self._lock:
                response = await self._answer(request, policy, extra_s)
            if response.code == ResponseCode.OK:
                return response.payload
            what = f"{_name(Command, command)} for board {board}"
            refusal = f"BMP {self.host} refuses {what}: {_name(ResponseCode, response.code)}"
            if response.code in _UNDECIDED and not policy.repeatable:
                raise NoAnswer(refusal)
            if response.code not in _FOR_THE_MOMENT or attempt == self.timings.refusal_tries:
                break
            await asyncio.sleep(self.timings.refusal_pause_s)
        raise Refused(refusal)

    async def probe(self) -> bool:
        """Probe a BMP that is silent; return whether it answers again."""
        async with self._lock:
            request = Request(0, Command.VERSION, self._next_sequence())
            try:
                await self._exchange(request, self._probe)
            except NoAnswer as exc:
                self.close()
                self.silent = str(exc)
                return False
            self.silent = None
            return True

    def pause(self) -> None:
        """Begin no command until `resume`; what is in flight goes on."""
        self._may_begin.clear()

    def resume(self) -> None:
        """Undo `pause`."""
        self._may_begin.set()

    def fall_silent(self, reason: str) -> None:
        """Take the BMP for silent, because of `reason`, until it answers a probe."""
        if self.silent is None:
            self.silent = reason
            self._on_silent(reason)

    def close(self) -> None:
        """Close the socket; it would be opened again by another command."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 - asyncio names it
        """Take in a datagram from the BMP."""
        try:
            response = Response.decode(data)
        except BadPacket:
            self.strays += 1
            return
        self._heard = asyncio.get_running_loop().time()
        if self._awaited is None or self._awaited[0] != response.sequence or self._awaited[1].done():
            self.strays += 1
            return
        self._awaited[1].set_result(response)

    def _next_sequence(self) -> int:
        self._sequence = self._sequence + 1 & 0xFFFF
        return self._sequence

    async def _answer(self, request: Request, policy: Policy, extra_s: float) -> Response:
        """Return the answer to `request`; `Silent` where the BMP is silent, or falls silent now."""
        if self.silent is not None:
            raise Silent(self.silent)
        try:
            return await self._exchange(request, policy, extra_s)
        except NoAnswer as exc:
            if policy.repeatable:
                self.close()  # the host's address or the way to it may have changed by the time it is back
                self.fall_silent(str(exc))
                raise Silent(str(exc)) from exc
            raise

    async def _exchange(self, request: Request, policy: Policy, extra_s: float = 0.0) -> Response:
        """Send `request` until it is answered, or out of tries (`NoAnswer`). Only with the lock held."""
        loop = asyncio.get_running_loop()
        pace_s = self.timings.pace_s
        try:
            transport = await self._opened()
            await self._may_begin.wait()
            self.in_flight = True
            if (pause := self._begin_at - loop.time()) > 0:
                await asyncio.sleep(pause)
            datagram = request.encode()
            for attempt in range(policy.tries):
                if attempt > 0:  # copies may still be on their way, or in the BMP's hands, when one is answered
                    self.resends += 1
                    pace_s = max(pace_s, self.timings.resent_pace_s)
                answer: asyncio.Future[Response | None] = loop.create_future()
                self._awaited = (request.sequence, answer)
                transport.sendto(datagram)
                expiry = loop.call_later(policy.reply_s + extra_s, loop.call_later, READ_GRACE_S, _expire, answer)
                response = await answer
                expiry.cancel()
                if response is not None:
                    return response
        finally:
            self.in_flight = False
            self._awaited = None
            self._begin_at = loop.time() + pace_s
        what = f"{policy.tries} x {_name(Command, request.command)} in {policy.reply_s + extra_s:g} s each"
        raise NoAnswer(f"BMP {self.host} does not answer ({what})")

    async def _opened(self) -> asyncio.DatagramTransport:
        if self._transport is not None and not self._transport.is_closing():
            return self._transport
        try:
            address = (await self._find(), self._port)
            self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: self, remote_addr=address, family=socket.AF_INET
            )
        except OSError as exc:
            raise NoAnswer(f"BMP {self.host} cannot be reached: {exc}") from exc
        return self._transport

    async def _find(self) -> str:
        """The host's address; the last one that is known while the name service does not answer."""
        try:
            self._address = await self._find_address(self.host, self.timings.open_s)
        except NoNameService:
            if self._address is None:
                raise
        return self._address


def _expire(answer: asyncio.Future[Response | None]) -> None:
    if not answer.done():
        answer.set_result(None)


def _name(kind: type[Command | ResponseCode], code: int) -> str:
    try:
        return kind(code).name
    except ValueError:
        return f"{kind.__name__} {code:#x}"
