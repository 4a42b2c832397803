"""Which files a configuration is read from, and that what was read was there before and afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spalloc_server.config.load import load
from spalloc_server.config.sources import Looks, look, note, recorded
from spalloc_server.errors import ConfigurationError

WIRING = "cabinet,frame,board,x,y\n0,0,0,0,0\n0,0,1,8,4\n0,0,2,4,8\n"
MACHINE = 'Machine.with_standard_ips("m", board_locations=board_locations_from_spinner(FOLDER + "/wiring.csv"))'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "wiring.csv").write_text(WIRING)
    return tmp_path


def script(folder: Path, text: str) -> Path:
    path = folder / "spalloc.conf"
    path.write_text(f"FOLDER = {str(folder)!r}\n{text}\n")
    return path


def sources(path: Path) -> set[str]:
    """Names of the files from which a configuration is read."""
    files: Looks = {}
    with recorded(files):
        load(path)
    assert all(files.values()), "all of them could be read"
    return {path.name for path in files}


def test_a_wiring_file_belongs_to_both_forms(folder: Path) -> None:
    declarative = folder / "spalloc.toml"
    declarative.write_text('[[machine]]\nform = "standard_ips"\nname = "m"\nboard_locations = "wiring.csv"\n')
    assert sources(declarative) == {"spalloc.toml", "wiring.csv"}
    assert sources(script(folder, f"configuration = Configuration([{MACHINE}])")) == {"spalloc.conf", "wiring.csv"}


def test_whatever_a_script_opens_to_read_belongs_to_it_but_no_modules(folder: Path) -> None:
    for name in ("opened", "read", "numbered"):
        (folder / name).write_text("x")
    (folder / "helper_of_a_script.py").write_text("x = 1")
    text = """
import os, pathlib, sys
sys.path.insert(0, FOLDER)
import helper_of_a_script
sys.path.remove(FOLDER)
open(FOLDER + "/opened").close()
pathlib.Path(FOLDER, "read").read_bytes()
os.close(os.open(FOLDER + "/numbered", os.O_RDONLY))
open(FOLDER + "/written", "w").close()
configuration = Configuration()
"""
    assert sources(script(folder, text)) == {"spalloc.conf", "opened", "read", "numbered"}


def test_relative_names_are_of_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    files: Looks = {}
    with recorded(files):
        note("wiring.csv")
    assert files == {folder / "wiring.csv": look(folder / "wiring.csv")}


def test_nothing_is_noted_of_what_others_open(folder: Path) -> None:
    files: Looks = {}
    with recorded(files):
        pass
    (folder / "wiring.csv").read_text()
    note(folder / "wiring.csv")
    assert files == {}


def test_a_new_content_is_seen_though_time_and_size_are_the_same(folder: Path) -> None:
    path = folder / "wiring.csv"
    before, status = look(path), path.stat()
    path.write_text(WIRING.replace("0,0,2", "0,0,3"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert look(path) != before


def test_what_is_no_file_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    assert [look(folder / name) for name in ("fifo", "absent", "")] == [None, None, None]


@pytest.mark.parametrize("name", ["wiring.csv", "spalloc.conf"])
def test_a_file_that_changes_while_it_is_read_is_an_error(folder: Path, name: str) -> None:
    text = f'configuration = Configuration([{MACHINE}])\nwith open(FOLDER + "/{name}", "a") as file: file.write("#")\n'
    path = script(folder, text)
    with pytest.raises(ConfigurationError, match=rf"{name}: was changed while it was read"):
        load(path)


def test_a_file_that_goes_while_it_is_read_is_an_error(folder: Path) -> None:
    text = f'configuration = Configuration([{MACHINE}])\nimport os\nos.unlink(FOLDER + "/wiring.csv")\n'
    with pytest.raises(ConfigurationError, match=r"wiring.csv: was changed while it was read"):
        load(script(folder, text))
