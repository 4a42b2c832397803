"""Every exception that this package raises on purpose, under one root.

`SpallocServerError` is the root. A leaf that stands for a bad value or a bad type is also a `ValueError` or a
`TypeError`, because the published server raised those and its users' scripts catch them. The text of each is
written for the person who reads it: what was wrong, and what would be right. Programs tell errors apart by `code`.
"""

from typing import ClassVar

__all__ = [
    "BusyError",
    "ConfigurationError",
    "ConfigurationTypeError",
    "ConfigurationValueError",
    "CredentialsError",
    "DamagedStateError",
    "ForbiddenError",
    "HardwareError",
    "ListenError",
    "NewerStateError",
    "NoSuchError",
    "ReadOnlyError",
    "RequestError",
    "SpallocServerError",
    "StateInUseError",
    "StorageError",
    "UpgradeError",
]


class SpallocServerError(Exception):
    """Root of every error raised on purpose by this package."""

    code: ClassVar[str] = "failed"
    """Stable name of this kind of error, for programs that are told of it."""


class ConfigurationError(SpallocServerError):
    """A configuration cannot be read, evaluated or validated; nothing was changed."""


class ConfigurationTypeError(ConfigurationError, TypeError):
    """A configuration is given something of the wrong kind."""


class ConfigurationValueError(ConfigurationError, ValueError):
    """A configuration contradicts itself, or leaves out something that it needs."""


class RequestError(SpallocServerError, ValueError):
    """A command asks for something that cannot be understood; it left no trace."""

    code = "bad-request"


class ForbiddenError(RequestError):
    """The caller may not do this; it left no trace."""

    code = "forbidden"


class NoSuchError(RequestError):
    """There is nothing of this name or number, or nothing that this caller may know of."""

    code = "no-such"


class CredentialsError(RequestError):
    """Name and password, or a token or session, are not those of anybody; which of them is wrong is not told."""

    code = "bad-credentials"


class ReadOnlyError(RequestError):
    """Nothing can be stored at present, so nothing is changed; the command left no trace."""

    code = "read-only"


class BusyError(RequestError):
    """Too much is under way or asked for at present; the command left no trace and may be sent again later."""

    code = "busy"


class HardwareError(SpallocServerError):
    """A board management processor did not do what it was told, within its deadline and budget of tries."""

    code = "hardware"


class ListenError(SpallocServerError):
    """The server cannot listen where it was told to."""


class StorageError(SpallocServerError):
    """The state could not be read from or written to disk."""

    code = "not-stored"


class DamagedStateError(StorageError):
    """The stored state is not what was written; nothing has been changed in it."""


class NewerStateError(StorageError):
    """The state was written by a newer version, whose schema this one does not know; it is untouched."""


class StateInUseError(StorageError):
    """Another server has the state."""


class UpgradeError(SpallocServerError):
    """A new process did not take over; the old one goes on as if nothing had happened."""
