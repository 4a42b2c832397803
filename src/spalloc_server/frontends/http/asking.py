"""What the parts of the front process need of the server, and what they know of who asks.

Theory of operation. `Asking` is the seam between what speaks HTTP and what speaks to the server (`connection`): tests
of the former put something of their own in the place of the latter. A `WebCaller` is made once for each request, by the
session, token or password that came with it; it says for whom the server is asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol, TypeVar

import msgspec

from spalloc_server.application.command_kinds import Command
from spalloc_server.application.web_settings import WebSettings
from spalloc_server.errors import SpallocServerError
from spalloc_server.frontends.local_api import Behalf

__all__ = ["Asking", "RefusedError", "ServerAwayError", "WebCaller", "WebSettings"]

T = TypeVar("T")


class RefusedError(SpallocServerError):
    """The server refuses; `kind` is the `code` of the error that it had, and the text is for the user.

    Args:
        kind: such as `bad-request`, `forbidden`, `no-such`, `bad-credentials`, `read-only`, `busy`, `hardware`,
            `not-stored`, `internal`.
        text: what was wrong, and what would be right.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class ServerAwayError(SpallocServerError):
    """The server has not been there for as long as a request may wait, or too many wait: 503, with Retry-After."""

    code = "server-away"


class WebCaller(msgspec.Struct, frozen=True, kw_only=True):
    """Who sends a request."""

    name: str
    """Of the account."""
    role: str
    """Of `application.caller.ROLES`, as it was when this was checked."""
    behalf: Behalf
    """For `Asking.ask`."""
    csrf: str | None = None
    """The token that the request must repeat where it changes something; None where it need not, as with a bearer
    token."""


class Asking(Protocol):
    """The server, as the rest of the front process sees it."""

    @property
    def settings(self) -> WebSettings:
        """As the server has told them last."""
        ...

    async def ask(self, command: Command, kind: type[T], *, behalf: Behalf | None = None, once: str | None = None) -> T:
        """Return what the server answers, as `kind`; wait for it while it is away.

        Args:
            command: what is asked.
            kind: a type that msgspec decodes the answer to; `None` becomes `type(None)`.
            behalf: for whom; None for the front process itself.
            once: id under which the server does it once, for what changes something; made up where it is None.

        Raises:
            RefusedError: the server refuses.
            ServerAwayError: it has not come back in time.
        """
        ...

    async def changed(self, key: str, since: int, seconds: float) -> int:
        """Wait until the revision of `job/7`, `jobs`, `machine/m` or `machines` is not `since`; return it then.

        After `seconds` it returns the same. While the server is away nothing changes; when it has come back, everything
        may have. All who wait for one key share one subscription.
        """
        ...

    def follow(self, key: str) -> AsyncIterator[int]:
        """Yield the revision of `key`, and again whenever it is another; the first at once."""
        ...
