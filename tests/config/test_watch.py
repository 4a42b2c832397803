"""When a change of a config's files counts: once it is complete, as far as can be seen."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from spalloc_server.config import watch as config_watch
from spalloc_server.config.sources import Look, Looks, look
from spalloc_server.config.watch import LOOKS, LOOKS_IF_SHORTER, Settling, Source, watch
from spalloc_server.errors import ConfigurationError
from tests.house import PATIENCE

CONFIG, WIRING = Path("/etc/hall.toml"), Path("/etc/wiring.csv")
TOML = '[[machine]]\nform = "standard_ips"\nname = "m"\nboard_locations = "wiring.csv"\n'
ROWS = "cabinet,frame,board,x,y\n0,0,0,0,0\n0,0,1,8,4\n0,0,2,4,8\n"


def files(config: bytes | None, wiring: bytes | None = b"wiring", time: int = 0) -> Looks:
    """How the two files look with these contents."""
    contents = {CONFIG: config, WIRING: wiring}
    return {
        path: None if content is None else Look(1, time, len(content), content) for path, content in contents.items()
    }


SEEN = files(b"config")
CASES: dict[str, tuple[list[Looks], list[bool]]] = {
    "nothing changes": ([SEEN] * 3, [False] * 3),
    "a save": ([files(b"config 2")] * 2, [False, True]),
    "a save that is undone": ([files(b"config 2"), SEEN, SEEN], [False] * 3),
    "a file that grows": ([files(b"config " + b"x" * size) for size in range(5)], [False] * 5),
    "a file that grows and then stands": (
        [files(b"config 1"), files(b"config 12"), files(b"config 123"), files(b"config 123")],
        [False, False, False, True],
    ),
    "the same content again at another time": ([files(b"config", time=1)] * 2, [False, True]),
    "a wiring file that changes": ([files(b"config", b"wired!")] * 2, [False, True]),
    "a wiring file that goes": (
        [files(b"config", None)] * LOOKS_IF_SHORTER,
        [False] * (LOOKS_IF_SHORTER - 1) + [True],
    ),
    "an empty file": ([files(b"")] * LOOKS_IF_SHORTER, [False] * (LOOKS_IF_SHORTER - 1) + [True]),
    "a shorter wiring file": (
        [files(b"config", b"w")] * LOOKS_IF_SHORTER,
        [False] * (LOOKS_IF_SHORTER - 1) + [True],
    ),
    "a copy that is held up half-way": (
        [*[files(b"con")] * (LOOKS_IF_SHORTER - 1), files(b"config 2"), files(b"config 2")],
        [*[False] * LOOKS_IF_SHORTER, True],
    ),
    "a config file that is absent": ([files(None)] * 20, [False] * 20),
    "a config file that is absent for a while": (
        [files(None)] * 9 + [files(b"config 2")] * 2,
        [False] * 10 + [True],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_change_counts_once_it_stands_still(case: str) -> None:
    looks, expected = CASES[case]
    settling = Settling(CONFIG)
    assert [settling.settled(now, seen=SEEN, used=SEEN) for now in looks] == expected


def test_a_file_that_grows_after_a_bad_look_is_still_shorter_than_the_one_in_use() -> None:
    settling, bad, half = Settling(CONFIG), files(b""), files(b"conf")
    looks = [settling.settled(half, seen=bad, used=SEEN) for _ in range(LOOKS_IF_SHORTER)]
    assert looks == [False] * (LOOKS_IF_SHORTER - 1) + [True]


def test_a_change_takes_two_looks_and_more_where_a_file_is_shorter() -> None:
    assert 2 == LOOKS < LOOKS_IF_SHORTER


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hall.toml").write_text(TOML)
    (tmp_path / "wiring.csv").write_text(ROWS)
    return tmp_path


def test_what_was_read_is_what_was_seen(folder: Path) -> None:
    source = Source(folder / "hall.toml")
    source.read()
    assert source.seen == {path: look(path) for path in (folder / "hall.toml", folder / "wiring.csv")}
    assert source.look() == source.seen


def test_a_config_is_watched_by_whatever_name_it_is_called(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "below").mkdir()
    (folder / "link.toml").symlink_to(folder / "hall.toml")
    monkeypatch.chdir(folder / "below")
    for name in ("../hall.toml", "./../below/../hall.toml", "../link.toml"):
        source = Source(Path(name))
        source.read()
        (folder / "hall.toml").write_text(TOML + f"# {name}\n")
        settling = Settling(source.config)
        looks = [settling.settled(source.look(), seen=source.seen, used=source.used) for _ in range(LOOKS)]
        assert looks == [False, True], name
        (folder / "hall.toml").write_text(TOML)


def test_certificates_are_watched_too_even_bad_ones(folder: Path) -> None:
    (folder / "hall.toml").write_text(TOML + '[access]\ntls_certificate = "cert.pem"\ntls_key = "key.pem"\n')
    (folder / "cert.pem").write_text("no certificate")
    source = Source(folder / "hall.toml")
    with pytest.raises(ConfigurationError, match="no TLS with certificate"):
        source.read()
    assert {path.name for path in source.seen} == {"hall.toml", "wiring.csv", "cert.pem", "key.pem"}
    assert source.seen[folder / "key.pem"] is None


def test_after_a_bad_config_the_files_of_the_good_one_are_watched_as_they_are_now(folder: Path) -> None:
    source = Source(folder / "hall.toml")
    source.read()
    (folder / "hall.toml").write_text("what?")
    (folder / "wiring.csv").write_text(ROWS + "0,0,3,12,0\n")
    with pytest.raises(ConfigurationError):
        source.read()
    assert source.look() == source.seen, "what failed is not tried again before something changes"
    (folder / "wiring.csv").write_text(ROWS)
    assert source.look() != source.seen


def test_what_changed_while_it_was_read_is_read_again(folder: Path) -> None:
    config = folder / "hall.py"
    config.write_text(f"configuration = Configuration()\nwith open({str(config)!r}, 'a') as file: file.write('#')\n")
    source = Source(config)
    with pytest.raises(ConfigurationError, match="while it was read"):
        source.read()
    settling = Settling(config)
    assert [settling.settled(source.look(), seen=source.seen, used=source.used) for _ in range(2)] == [False, True]


async def test_a_watch_tells_of_each_change_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_watch, "WATCH_SECONDS", 0)
    source, told = Source(folder / "hall.toml"), asyncio.Event()
    source.read()
    reads = 0

    def changed() -> None:
        nonlocal reads
        reads += 1
        source.read()
        told.set()

    watching = asyncio.create_task(watch(source, changed))
    for number in range(1, 4):
        (folder / "wiring.csv").write_text(ROWS + "\n" * number)
        await asyncio.wait_for(told.wait(), PATIENCE)
        told.clear()
        assert reads == number
    watching.cancel()


async def test_a_file_system_that_hangs_keeps_nobody_else_waiting(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_watch, "WATCH_SECONDS", 0)
    going, looking = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    source = Source(folder / "hall.toml")

    def hanging() -> Looks:
        loop.call_soon_threadsafe(looking.set)
        going.wait(30)
        return {}

    monkeypatch.setattr(source, "look", hanging)
    watching = asyncio.create_task(watch(source, lambda: None))
    await asyncio.wait_for(looking.wait(), PATIENCE)
    watching.cancel()
    await asyncio.wait([watching])
    assert watching.cancelled()
    going.set()
