"""Who asks: the caller of a command, and what callers may be permitted to do.

Theory of operation. A door makes one `Caller` for each connection or session and hands it in with each command. What a
caller may do is a set of permissions, which its roles give it; the rules that look at more than these are in
`authorisation`. A name is an identity only where it is *verified*: by the operating system, or by a log-in. Behind a
reverse proxy every address is the proxy's, so a door that cannot know the caller's address leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache

import msgspec

__all__ = ["FRONT", "ROLES", "Caller", "Permission", "least", "permissions_of"]


class Permission(StrEnum):
    """What a command takes."""

    LOOK = "look"
    """See machines, jobs and boards."""
    USE = "use"
    """Create jobs, and use the own ones."""
    OPERATE = "operate"
    """Change what is in service, and end and switch anybody's jobs."""
    STOP = "stop"
    """Switch everything off in an emergency, and go on after it."""
    AUTHENTICATE = "authenticate"
    """Ask who somebody is: for front processes."""

    __hash__ = str.__hash__  # that of an enum is slower, and is asked for with every command


_LOOK, _USE, _OPERATE, _STOP, _AUTHENTICATE = Permission

ROLES: dict[str, frozenset[Permission]] = {
    "basic": frozenset(),
    "reader": frozenset({_LOOK}),
    "user": frozenset({_LOOK, _USE}),
    "nmpi-exec": frozenset({_LOOK, _USE}),
    "operator": frozenset({_LOOK, _USE, _OPERATE}),
    "admin": frozenset(Permission) - {_AUTHENTICATE},
}
"""Which permissions each role gives: of any two, one gives all that the other does. `nmpi-exec` is reserved."""

FRONT = frozenset({_AUTHENTICATE})
"""What a front process may itself, apart from what its clients may."""


def permissions_of(roles: Iterable[str]) -> frozenset[Permission]:
    """Return what these roles permit together; a role that is not known permits nothing."""
    return frozenset().union(*(ROLES.get(role, frozenset()) for role in roles))


@lru_cache
def least(*roles: str | None) -> str:
    """Return the one of these roles that permits the least, the first of such; None among them says nothing."""
    return min((role for role in roles if role is not None), key=lambda role: len(ROLES.get(role, ())))


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who asks something of the server."""

    door: str
    """How the caller came in: `v1`, or `socket` for the local API socket."""
    permissions: frozenset[Permission]
    name: str | None = None
    """None where nobody has said it; what it is worth, `verified` tells."""
    address: str | None = None
    """IP address; None where it is not known, or not the caller's own."""
    verified: bool = False
    """Whether the name has been checked."""
    session: str | None = None
    """Id of the session that it is in, which lives as long as any job that is created in it."""

    @property
    def shown(self) -> str:
        """How texts for people name this caller."""
        return self.name or self.address or "somebody unknown"
