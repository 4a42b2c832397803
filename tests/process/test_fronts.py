"""The server's front process: started where none runs, adopted where one does, and stopped with the server."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from spalloc_server.config import extras
from spalloc_server.config.load import load
from spalloc_server.config.options import Web
from spalloc_server.config.watch import Source
from spalloc_server.errors import ConfigurationError, SpallocServerError
from spalloc_server.frontends.front_lock import FrontLock, Holder, front_folder, holder
from spalloc_server.process.fronts import Fronts
from tests.frontends.http.fake_socket import until


class Watched:
    """A state whose front processes are looked after, by looks that the test takes."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.folder = front_folder(self.state)
        self.fronts = Fronts(self.state)
        self.fronts.options = ["--quiet"]
        self.children: list[int] = []

    def look(self) -> int:
        """The process that was started last, while it is not known to have ended."""
        self.fronts._look()
        if self.fronts._child not in {0, *self.children}:
            self.children.append(self.fronts._child)
        return self.fronts._child

    def look_later(self) -> None:
        """As if the time to the next start was over."""
        self.fronts._due = 0.0
        self.look()

    def end(self) -> None:
        for child in self.children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(child, 0)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    it = Watched(tmp_path)
    yield it
    it.end()


def events(lines: list[EventDict]) -> list[str]:
    return [line["event"] for line in lines]


async def test_a_front_process_is_started_where_none_runs_and_only_one(watched: Watched) -> None:
    watched.fronts.configure(Web())
    with capture_logs() as lines:
        for _ in range(3):
            watched.look()
        await until(lambda: holder(watched.folder))
        watched.look()
    assert events(lines) == ["a front process is started"]
    assert holder(watched.folder) == Holder(pid=watched.children[0], of_server=True)
    assert os.getsid(watched.children[0]) == watched.children[0]  # so that ctrl+c is for the server alone


def test_one_that_runs_already_is_left_alone(watched: Watched) -> None:
    lock = FrontLock.take(watched.folder)
    watched.fronts.configure(Web())
    watched.look()
    assert watched.children == []
    lock.release()
    watched.look()
    assert len(watched.children) == 1


async def test_one_that_ends_is_started_again_ever_more_slowly(watched: Watched) -> None:
    watched.fronts.configure(Web())
    pauses = []
    for _ in range(3):
        watched.look_later()
        child = watched.children[-1]
        os.kill(child, signal.SIGKILL)
        with capture_logs() as lines:
            await until(lambda: not watched.look())
        assert events(lines) == ["the front process has ended: it is started again"]
        pauses.append(lines[0]["after"])
    assert pauses == [1.0, 2.0, 4.0]


async def test_with_the_server_the_front_process_ends_that_a_server_has_started(watched: Watched) -> None:
    watched.fronts.configure(Web())
    watched.look()
    await until(lambda: holder(watched.folder))
    watched.fronts.stop()
    await until(lambda: holder(watched.folder) is None)


async def test_one_that_is_no_longer_wanted_is_told_to_stop(watched: Watched) -> None:
    for later in (None, Web(start=False)):
        watched.fronts.configure(Web())
        watched.look_later()
        await until(lambda: holder(watched.folder))
        watched.fronts.configure(later)
        await until(lambda: holder(watched.folder) is None)
        await until(lambda: not watched.look())


def test_one_of_its_own_unit_is_never_told_to_stop(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = FrontLock.take(watched.folder)
    lock.say(Holder(pid=os.getpid()))
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("it was told"))
    watched.fronts.configure(Web())
    watched.fronts.stop()
    watched.fronts.configure(None)
    lock.release()


# -------------------------------------------------------------------- the configuration


def test_a_configuration_with_http_needs_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "hall.toml"
    config.write_text("machine = []\n[web]\n")
    assert Source(config).read().web == Web()
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(ConfigurationError, match=r"not installed \(uvicorn\).*pip install 'spalloc-server\[web\]'"):
        Source(config).read()
    config.write_text("machine = []\n")
    assert Source(config).read() == load(config)


def test_certificates_that_cannot_be_used_are_found_when_the_file_is_read(tmp_path: Path) -> None:
    config = tmp_path / "hall.toml"
    config.write_text('machine = []\n[web]\ntls_certificate = "absent.pem"\n')
    with pytest.raises(ConfigurationError, match=r"web: no TLS with certificate .*absent.pem"):
        Source(config).read()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errno.EACCES, "must be run by the user of its server"),
        (errno.EROFS, "Read-only file system"),
        (errno.ENOSPC, "No space left on device"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, told: str
) -> None:
    def fails(*_: object, **__: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(SpallocServerError, match=told):
        FrontLock.take(tmp_path / "web")


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "web").write_text("")
    with pytest.raises(SpallocServerError, match="is no folder: move it away"):
        FrontLock.take(tmp_path / "web")
