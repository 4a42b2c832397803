"""Every exception that this package raises on purpose, under one root.

`SpallocServerError` is the root. A leaf that stands for a bad value or a bad type is also a `ValueError` or a
`TypeError`, because the published server raised those and its users' scripts catch them. The text of each is
written for the person who reads it: what was wrong, and what would be right.
"""

__all__ = [
    "ConfigurationError",
    "HardwareError",
    "RequestError",
    "SpallocServerError",
    "StorageError",
]


class SpallocServerError(Exception):
    """Root of every error raised on purpose by this package."""


class ConfigurationError(SpallocServerError):
    """A configuration cannot be read, evaluated or validated; nothing was changed."""


class RequestError(SpallocServerError, ValueError):
    """A command asks for something that cannot be understood; it left no trace."""


class HardwareError(SpallocServerError):
    """A board management processor did not do what it was told, within its deadline and budget of tries."""


class StorageError(SpallocServerError):
    """The state could not be read from or written to disk."""
