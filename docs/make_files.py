"""Write the files that come from the code: manual pages, and the JSON schema of config files.

    .venv/bin/python docs/make_files.py            # write what has changed; `make man` and `make format` run this
    .venv/bin/python docs/make_files.py --check    # only say which files are not up to date; `make lint` runs this

Theory of operation. A manual page says what `--help` of a program and of all of its commands says, from the same
objects. It has neither a date nor a version, so that it changes only where the program does.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from spalloc_server.cli.admin import main as admin
from spalloc_server.cli.serve import main as serve
from spalloc_server.cli.web import main as web
from spalloc_server.config.schema import schema

ROOT = Path(__file__).parents[1]

SUMMARIES = {
    "spalloc_server": "share out the boards of SpiNNaker machines",
    "spalloc_web": "serve HTTP for a running spalloc_server",
    "spalloc-admin": "look after a spalloc_server",
}


def escaped(text: str) -> str:
    """Return a text in which roff takes nothing for a command of its own."""
    text = (
        text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("^", "\\(ha").replace("~", "\\(ti")
    )
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def paragraphs(text: str) -> Iterator[str]:
    """Yield the lines of a docstring; and of an epilog, whose lines stay as they are after a backspace."""
    for part in inspect.cleandoc(text).split("\n\n"):
        if part.startswith("\b"):
            head, *lines = part.removeprefix("\b\n").splitlines()
            yield from (".PP", escaped(head), ".nf", ".RS", *(escaped(line.strip()) for line in lines), ".RE", ".fi")
        else:
            yield from (".PP", escaped(" ".join(part.split())))


def described(command: click.Command, name: str) -> Iterator[str]:
    """Yield what `--help` of a command says, in roff."""
    context = click.Context(command, info_name=name, help_option_names=["-h", "--help"])
    yield from (f".B {escaped(name)}", escaped(" ".join(command.collect_usage_pieces(context))))
    yield from paragraphs(command.help or "")
    for parameter in command.get_params(context):
        forms, told = parameter.get_help_record(context) or ("", "")
        if told and "--help" not in forms:
            yield from (".TP", f".B {escaped(forms)}", escaped(" ".join(told.split())))
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            assert below is not None
            full = f"{name} {each}"
            yield f".SS {escaped(full.partition(' ')[2])}"
            yield from described(below, full)
    if command.epilog:
        yield from paragraphs(command.epilog)


def manual_page(program: str, command: click.Command) -> str:
    """Return a manual page of section 1."""
    others = ", ".join(f"\\fB{escaped(name)}\\fP(1)" for name in SUMMARIES if name != program)
    name = escaped(program)
    lines = [
        '.\\" Written by docs/make_files.py; do not edit',
        f'.TH "{name.upper()}" 1 "" "spalloc_server"',
        *(".SH NAME", f"{name} \\- {SUMMARIES[program]}"),
        *(".SH DESCRIPTION", *described(command, program)),
        *(".SH SEE ALSO", others),
    ]
    return "\n".join(lines) + "\n"


def files() -> dict[Path, str]:
    """Return {file: its content}."""
    pages = {"spalloc_server": serve, "spalloc_web": web, "spalloc-admin": admin}
    found = {ROOT / f"docs/man/{name}.1": manual_page(name, command) for name, command in pages.items()}
    found[ROOT / "src/spalloc_server/examples/spalloc.schema.json"] = json.dumps(schema(), indent=2) + "\n"
    return found


def outdated() -> dict[Path, str]:
    """Return {file: what it should be} of those that are not what the code says."""
    return {path: text for path, text in files().items() if not path.exists() or path.read_text("utf-8") != text}


def main(arguments: list[str]) -> int:
    """Write the files, or check them; return the exit status."""
    found = outdated()
    for path, text in found.items():
        if arguments == ["--check"]:
            print(f"{path.relative_to(ROOT)} is not what the code says: run `make format`", file=sys.stderr)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if found and arguments == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
