"""What `make dist` has built, in an environment of its own: it is whole, and it works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from spalloc_server import __version__
from spalloc_server.cli.admin import COMMANDS
from tests.pages import ROOT, SOURCES

pytestmark = pytest.mark.distribution

INSTALL_SECONDS = 900
RUN_SECONDS = 120


def files_of_the_package() -> set[str]:
    """Paths from the folder of the package, of all files in it: modules, migrations, examples."""
    return {
        path.relative_to(SOURCES.parent).as_posix()
        for path in SOURCES.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module", params=["spalloc_server-*.whl", "spalloc_server-*.tar.gz"], ids=["wheel", "sdist"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment into which the distribution is installed."""
    (distribution,) = (ROOT / "dist").glob(request.param)
    environment = tmp_path_factory.mktemp("installed") / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=INSTALL_SECONDS)
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    python = environment / "bin" / "python"
    subprocess.run([python, *install, distribution], check=True, timeout=INSTALL_SECONDS)
    return environment / "bin"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder is not the checkout, and nothing leads to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert not Path(os.curdir).samefile(ROOT)
    return tmp_path


def output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=RUN_SECONDS).stdout


def test_the_server_tells_its_version(installed: Path, elsewhere: Path) -> None:
    assert output(installed / "spalloc_server", "--version") == f"spalloc_server {__version__}\n"
    assert output(installed / "spalloc-server", "--version") == f"spalloc_server {__version__}\n"


def test_the_operators_program_lists_its_commands(installed: Path, elsewhere: Path) -> None:
    listed = output(installed / "spalloc-admin", "--help")
    assert [name for name in COMMANDS if name not in listed] == []


def test_the_demo_takes_a_job_through(installed: Path, elsewhere: Path) -> None:
    told = output(installed / "spalloc-admin", "demo", "--once", "--port", "0")
    assert "all boards are off" in told
    assert told.endswith("stopped\n")


def test_every_file_of_the_package_is_installed(installed: Path, elsewhere: Path) -> None:
    where = "import spalloc_server; print(spalloc_server.__path__[0])"
    package = Path(output(installed / "python", "-c", where).strip())
    assert not package.is_relative_to(ROOT)
    there = {path.relative_to(package.parent).as_posix() for path in package.rglob("*") if path.is_file()}
    assert files_of_the_package() <= there


def test_the_wheel_has_the_files_of_the_package_and_no_others() -> None:
    (wheel,) = (ROOT / "dist").glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == files_of_the_package()
    assert any("/migrations/" in name for name in names)
    assert any("/examples/" in name for name in names)


def test_the_source_distribution_can_be_worked_on() -> None:
    (archive,) = (ROOT / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {f"src/{name}" for name in files_of_the_package()} <= names
    wanted = [
        "Makefile",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "tools/mutants.py",
    ]
    wanted += ["docs/index.md", "examples/million-core.toml", "tests/conftest.py", "benchmarks/__main__.py"]
    assert [name for name in wanted if name not in names] == []
    assert [name for name in names if name.startswith((".venv", "docs/_build", "spalloc/"))] == []
