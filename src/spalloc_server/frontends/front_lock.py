"""The folder of front processes beside a state: a lock tells whether one serves, and which.

Theory of operation. In a folder beside the state there is a file that the front process has locked (`flock`). The lock
goes with the process, however that ends; a process that replaces it inherits the open file, and with it the lock. What
is written in the file says which process it is, and is only true while somebody has the lock. Whoever merely looks
takes the lock for a moment, shared with others who look; so a front process that finds it taken tries again.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final, Self

import msgspec

from spalloc_server.errors import SpallocServerError

__all__ = ["CA_FILE", "FrontLock", "Holder", "front_folder", "holder", "trusting"]

FILE: Final = "front.lock"

CA_FILE: Final = "ca.pem"
"""The certificate authority of this server's own, which clients have to trust."""

TAKE_SECONDS = 2.0
"""For so long a front process tries to get the lock, which somebody may hold who merely looks."""

PAUSE_SECONDS: Final = 0.05


def front_folder(state: Path) -> Path:
    """Return the folder of what belongs to the front processes of this state, whatever links lead to the state."""
    state = state.resolve()
    return state.with_name(f"{state.name}.web")


def trusting(folder: Path) -> dict[str, str]:
    """Return the environment variables that make published clients trust this server's own certificate authority."""
    file = str((folder / CA_FILE).absolute())
    return {"REQUESTS_CA_BUNDLE": file, "WEBSOCKET_CLIENT_CA_BUNDLE": file}


class Holder(msgspec.Struct, kw_only=True):
    """The front process that serves."""

    pid: int
    of_server: bool = False
    """Whether the server has started it, and is to stop it."""


class FrontLock:
    """The lock, which this process has.

    Args:
        number: of the open file.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    @classmethod
    def take(cls, folder: Path) -> Self:
        """Take the lock in a folder, which is made where it is not there.

        Raises:
            SpallocServerError: another front process has it, or the folder cannot be used.
        """
        deadline = time.monotonic() + TAKE_SECONDS
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            number = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            while not _lock(number, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    os.close(number)
                    raise SpallocServerError(f"a front process serves this state already: see {folder / FILE}")
                time.sleep(PAUSE_SECONDS)
        except FileExistsError as exc:
            raise SpallocServerError(f"{folder} is no folder: move it away, then one is made") from exc
        except PermissionError as exc:
            told = f"{folder} cannot be used by this user: a front process must be run by the user of its server"
            raise SpallocServerError(told) from exc
        except OSError as exc:
            raise SpallocServerError(f"{folder} cannot be used: {exc.strerror or exc}") from exc
        return cls(number)

    def say(self, holder: Holder) -> None:
        """Write who serves."""
        text = msgspec.json.encode(holder)
        os.pwrite(self.number, text, 0)
        os.ftruncate(self.number, len(text))

    def release(self) -> None:
        """Close the file; the lock stays where another process has inherited it."""
        os.close(self.number)


def holder(folder: Path) -> Holder | None:
    """Return who serves; None where nobody does. Who has the lock and has not said so is process 0."""
    try:
        number = os.open(folder / FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if _lock(number, fcntl.LOCK_SH):
            return None
        return msgspec.json.decode(os.pread(number, 4096, 0), type=Holder)
    except (msgspec.MsgspecError, OSError):
        return Holder(pid=0)
    finally:
        os.close(number)


def _lock(number: int, how: int) -> bool:
    try:
        fcntl.flock(number, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
