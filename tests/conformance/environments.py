"""Virtual environments of their own for the published packages that the conformance tests run.

Each is made once, by `pip`, and kept under `.venvs` in the project's root (git-ignored); its name tells its
content, so different requirements or interpreters never share one. Several test processes may ask at once: a
file lock makes one of them build it while the others wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["ROOT", "environment", "published_server"]

ROOT = Path(__file__).resolve().parents[2]
"""The project's root."""

_CACHE = ROOT / ".venvs"
_INSTALL_SECONDS = 900


def environment(name: str, *requirements: str) -> Path:
    """The Python of a virtual environment that has `requirements` (in pip's terms), made where it is missing.

    Raises `subprocess.CalledProcessError`, with pip's output, where they cannot be installed.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256("\n".join([version, *requirements]).encode()).hexdigest()[:8]
    directory = _CACHE / f"{name}-{digest}"
    python, done = directory / "bin" / "python", directory / "installed"
    _CACHE.mkdir(exist_ok=True)
    with (_CACHE / f"{name}-{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(directory, ignore_errors=True)
            _run(sys.executable, "-m", "venv", str(directory))
            _run(str(python), "-m", "pip", "install", "--quiet", *requirements)
            done.touch()
    return python


def published_server() -> Path:
    """The Python of an environment that has the published spalloc_server, 7.0.0."""
    return environment("spalloc-server-7.0.0", "spalloc-server==1!7.0.0")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=_INSTALL_SECONDS)
