"""`spalloc-admin init`: a config file, from a few questions.

Theory of operation. Each question has an option, and what an option says is not asked. Each answer is judged when it is
given. The file is written under another name, read as a server would, and only then gets its own name, if that is still
free: so there is never half a file, nor a bad one, and none is overwritten.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from spalloc_server.cli.process import PATH, one_line_errors, say
from spalloc_server.config.extras import has_web
from spalloc_server.config.first import LAYOUTS, Answers, bmps_from, frames_of, text_of_first
from spalloc_server.config.hosts import why_no_host
from spalloc_server.config.load import load
from spalloc_server.config.options import MAX_PORT
from spalloc_server.config.settings import DEFAULT_PORT, board_locations_from_spinner
from spalloc_server.coordinates import Board, Location
from spalloc_server.errors import ConfigurationError, ConfigurationValueError
from spalloc_server.log.text import printable

__all__ = ["init"]

_USUAL: Final = "usual"
_SINGLE_BMP: Final = "192.168.240.0"
_FIRST_BMP: Final = "192.168.0.0"

T = TypeVar("T")


@click.command()
@click.argument("config", type=PATH, required=False)
@click.option("--name", help="The machine's name.")
@click.option("--boards", metavar="1|3|24|CSV", help="How many boards; or the wiring tool's file, which tells it.")
@click.option("--bmp", "bmps", metavar="HOST", multiple=True, help="The BMP of a frame; once for each, in their order.")
@click.option("--board-hosts", metavar="PATTERN", help="Where boards answer, such as b-{cabinet}-{frame}-{board}.")
@click.option("--port", type=click.IntRange(0, MAX_PORT), help="TCP port of the server.")
@click.option("--state", type=PATH, help="Where the server's state goes.")
@click.option("--web/--no-web", default=None, help="Whether HTTP is served, too.")
@click.option("--yes", is_flag=True, help="Ask nothing: what no option says is as usual.")
def init(config: Path | None, *, name: str | None, yes: bool, web: bool | None, **options: Any) -> None:
    """Ask for what a server must know of a machine, and write it to CONFIG, which must not exist yet."""
    with one_line_errors("spalloc-admin init"):
        if config is not None:
            _check_file(str(config))
        ask = _Questions(yes)
        try:
            name = ask("The machine's name", name, "my-machine", _check_name)
            usual = f"{''.join(each if each.isalnum() else '-' for each in name)}.toml"
            config = Path(ask("The config file", None if config is None else str(config), usual, _check_file))
            answers = _machine(ask, config, name, options)
            told = ask("TCP port of the server", options["port"], DEFAULT_PORT, _port)
            kept = None if options["state"] is None else str(options["state"])
            state = ask("Where its state goes (beside: beside the config file)", kept, "beside", str)
            if web is None:
                web = has_web() if yes else click.confirm("Serve HTTP, for SpiNNMan and sPyNNaker 7, too?", has_web())
        except click.Abort:
            say("nothing is written", file=sys.stderr)
            raise KeyboardInterrupt from None
        _write(config, answers, web=web, port=told, state=None if state == "beside" else state)


class _Questions:
    """Asks, unless an option has said it, or nothing is to be asked."""

    def __init__(self, yes: bool) -> None:
        self.silent = yes

    def __call__(self, question: str, said: Any, usual: Any, judge: Callable[[Any], T]) -> T:
        if said is None and not (self.silent and usual is not None):
            if self.silent:
                raise ConfigurationValueError(f"{question}: there is no usual answer; give it as an option")
            answer: T = click.prompt(question, default=usual, value_proc=lambda text: _judged(judge, text))
            return answer
        return judge(usual if said is None else said)


def _judged(judge: Callable[[Any], T], text: str) -> T:
    try:
        return judge(text)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error


def _machine(ask: _Questions, config: Path, name: str, options: dict[str, Any]) -> Answers:
    said = options["boards"]
    question = "How many boards: 1, 3, 24; or the file that spinner-ethernet-chips has written"
    locations, wiring = ask(question, said, "1", lambda text: _boards(config, text))
    frames = frames_of(locations)
    single = len(locations) == 1
    bmps = list(options["bmps"])
    if len(bmps) > len(frames):
        raise ConfigurationValueError(f"{len(bmps)} BMPs are given for {len(frames)} frames: each frame has one")
    if not bmps:
        bmps = [ask(_question(frames[0]), None, _SINGLE_BMP if single else _FIRST_BMP, _check_host)]
    usual = bmps_from(bmps[0], frames)
    if usual is not None and len(bmps) == 1 < len(frames) and not ask.silent:
        told = f"{usual[1]}, ..., {usual[-1]}" if len(usual) > 3 else ", ".join(usual[1:])
        bmps = usual if click.confirm(f"The BMPs of the other frames: {told}?", default=True) else bmps
    for number, frame in enumerate(frames[len(bmps) :], len(bmps)):
        bmps.append(ask(_question(frame), None, None if usual is None else usual[number], _check_host))
    bmps = [_check_host(bmp) for bmp in bmps]
    question = "Where boards answer (usual: the BMP's address + 8 x board + 1; or a pattern with {cabinet}, {frame}, "
    addressed = all(bmps_from(bmp, [(0, 0)]) is not None for bmp in bmps)
    hosts = ask(question + "{board})", options["board_hosts"], _USUAL if addressed else None, str)
    return Answers(
        name=name, locations=locations, wiring=wiring, bmps=bmps, board_hosts=None if hosts == _USUAL else hosts
    )


def _question(frame: tuple[int, int]) -> str:
    return "The BMP of cabinet {}, frame {}: its name or address".format(*frame)


def _check_name(name: str) -> str:
    if not name or not name.isprintable():
        raise ConfigurationValueError("a machine's name is not empty, and has no control characters")
    return name


def _check_file(name: str) -> str:
    if os.path.lexists(name):
        raise ConfigurationValueError(f"{name} is there already, and is not overwritten: choose another name")
    if Path(name).suffix.lower() != ".toml":
        raise ConfigurationValueError(f"{name}: the name of a config file in TOML ends in .toml")
    if not Path(name).parent.is_dir():
        raise ConfigurationValueError(f"{name}: there is no folder {Path(name).parent}")
    return name


def _check_host(host: str) -> str:
    if wrong := why_no_host(host):
        raise ConfigurationValueError(f"{host!r}: {wrong}")
    return host


def _port(said: int | str) -> int:
    if str(said).isdecimal() and int(said) <= MAX_PORT:
        return int(said)
    raise ConfigurationValueError(f"{said!r} is no port: it is a number up to {MAX_PORT}")


def _boards(config: Path, said: str) -> tuple[dict[Board, Location], str | None]:
    """Where the boards stand, and the CSV that says so, as the config file names it."""
    if said.isdecimal() and (layout := LAYOUTS.get(int(said))) is not None:
        return dict(layout), None
    counts = ", ".join(map(str, LAYOUTS))
    try:
        locations = board_locations_from_spinner(said)
    except (OSError, ValueError) as error:  # of which ours are
        told = f"it is none of {counts}, and no CSV of spinner-ethernet-chips: {error}"
        raise ConfigurationValueError(f"{said!r}: {told}") from error
    if not locations:
        raise ConfigurationValueError(f"{said}: it lists no boards")
    return locations, os.path.relpath(said, config.parent)


def _write(config: Path, answers: Answers, *, web: bool, port: int, state: str | None) -> None:
    """Write the file, and say what comes next."""
    options = [*([] if port == DEFAULT_PORT else ["--port", str(port)]), *([] if state is None else ["--state", state])]
    which = ["--config", config.name] if state is None else ["--state", state]
    serve = shlex.join(["spalloc_server", config.name, *options])
    operate = shlex.join(["spalloc-admin", "status", *which])
    head = ["Written by `spalloc-admin init`; docs/configuration.md tells what else may be here.", ""]
    head += [
        f"Look:  spalloc-admin doctor {shlex.join([config.name, *options])}",
        f"Start: {serve}",
        f"Ask:   {operate}",
    ]
    text = text_of_first(msgspec.structs.replace(answers, web=web), map(printable, head))
    draft = config.with_name(f".{config.stem}.{os.getpid()}.toml")
    try:
        draft.write_text(text, encoding="utf-8")
        load(draft)
        os.link(draft, config)
    except FileExistsError:
        _check_file(str(config))
    except OSError as error:
        raise ConfigurationError(f"{config} cannot be written: {error.strerror}") from error
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace(str(draft), str(config))) from error
    finally:
        draft.unlink(missing_ok=True)
    say(f"{config} is written. Look whether all is well, and then start the server:")
    say(f"  spalloc-admin doctor {shlex.join([str(config), *options])}", wrap=False)
    say(f"  {shlex.join(['spalloc_server', str(config), *options])}", wrap=False)
