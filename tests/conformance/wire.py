"""The smallest client of the protocol: it sends any request or any line, and hands back whatever comes."""

from __future__ import annotations

import json
import socket
from types import TracebackType
from typing import Any, Self

__all__ = ["DISCONNECTED", "Connection"]

DISCONNECTED = {"disconnected": True}
"""What `Connection.line` gives where the server closed the connection instead of answering."""
REPLY_SECONDS = 20.0


class Connection:
    """One connection to a server, made anew where the server closes it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self.notifications: list[dict[str, Any]] = []
        """Notifications that came before replies, oldest first."""
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, command: str, *args: Any, **kwargs: Any) -> Any:
        """The value that `command` returns; an exception or a disconnection fails."""
        reply = self.request(command, *args, **kwargs)
        assert "return" in reply, f"{command}{args}{kwargs} -> {reply}"
        return reply["return"]

    def request(self, command: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The whole reply to `command`."""
        return self.line(json.dumps({"command": command, "args": args, "kwargs": kwargs}).encode())

    def line(self, line: bytes) -> dict[str, Any]:
        """The reply to a request as it goes over the wire, or `DISCONNECTED`."""
        try:
            self._socket.sendall(line + b"\n")
            while reply := self._reader.readline():
                answer: dict[str, Any] = json.loads(reply)
                if "return" in answer or "exception" in answer:
                    return answer
                self.notifications.append(answer)
        except ConnectionError:
            pass  # that too is a disconnection: the server closed while we were sending
        self.close()
        self._open()
        return DISCONNECTED

    def notification(self) -> dict[str, Any]:
        """The next notification."""
        if self.notifications:
            return self.notifications.pop(0)
        answer: dict[str, Any] = json.loads(self._reader.readline())
        return answer

    def close(self) -> None:
        """Disconnect."""
        self._reader.close()
        self._socket.close()

    def _open(self) -> None:
        self._socket = socket.create_connection(self._address, timeout=REPLY_SECONDS)
        self._reader = self._socket.makefile("rb")
