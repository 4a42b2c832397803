"""The command line's reference and the code say the same, and every command in the docs can be given."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
from collections.abc import Iterator

import click
import pytest

from spalloc_server.cli.admin import main as admin
from spalloc_server.cli.serve import main as serve
from spalloc_server.cli.web import main as web
from spalloc_server.config.settings import DEFAULT_PORT
from tests.pages import PAGES, ROOT, SOURCES, page, section, spans, table_rows

OPTION = re.compile(r"(?<![\w-])(?:--[a-z][a-z-]+|-[a-zA-Z](?!\w))")
OPTIONS_OF_OTHERS = {"--group", "--hostname", "--info", "--no-destroy", "--owner", "--resume", "--upgrade"}
"""Of published clients and of pip."""

HELP = {"--help", "-h"}


def commands(group: click.Command = admin, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, by its full name."""
    if isinstance(group, click.Group):
        context = click.Context(group)
        for each in group.list_commands(context):
            command = group.get_command(context, each)
            assert command is not None
            yield from commands(command, f"{name} {each}".strip())
    else:
        yield name, group


def options(command: click.Command) -> dict[str, click.Parameter]:
    """All forms of all options, long and short."""
    every = {form: parameter for parameter in command.params for form in (*parameter.opts, *parameter.secondary_opts)}
    return {form: parameter for form, parameter in every.items() if form.startswith("-")}


SERVERS = {"spalloc_server": serve, "spalloc_web": web}


def server_section() -> str:
    return section_of("spalloc_server")


def section_of(name: str) -> str:
    return section(page("command-line.md"), f"## `{name}`")


def usage_of(name: str) -> str:
    text = section(page("command-line.md"), f"### `{name}`")
    (usage,) = [line.strip() for line in text.splitlines() if re.match(rf"    spalloc-admin {name}( |$)", line)][:1]
    return usage


def choices(command: click.Command) -> dict[str, list[str]]:
    """{option: what it may be}."""
    return {
        form: list(parameter.type.choices)
        for form, parameter in options(command).items()
        if isinstance(parameter.type, click.Choice)
    }


@pytest.mark.parametrize("name", SERVERS)
def test_the_options_of_a_server_are_those_that_the_reference_lists(name: str) -> None:
    rows = [set(OPTION.findall(row[0])) for row in table_rows(section_of(name)) if "`-" in row[0]]
    shown = [each for each in SERVERS[name].params if not getattr(each, "hidden", False)]
    forms = [{*parameter.opts} for parameter in shown if parameter.opts[0].startswith("-")]
    assert sorted(map(sorted, rows)) == sorted(map(sorted, [*forms, HELP]))


@pytest.mark.parametrize("name", SERVERS)
def test_the_reference_of_a_server_tells_choices_and_defaults(name: str) -> None:
    rows = {form: row for row in table_rows(section_of(name)) for form in OPTION.findall(row[0])}
    for form, may_be in choices(SERVERS[name]).items():
        assert f"`{form} " + "\\|".join(may_be) + "`" in rows[form][0]
        assert f"by default `{options(SERVERS[name])[form].default}`" in rows[form][1]
    assert f"by default {DEFAULT_PORT}" in rows.get("--port", ["", f"by default {DEFAULT_PORT}"])[1]


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_has_a_section_with_all_of_its_options_and_no_others(name: str) -> None:
    usage = usage_of(name)
    every_command_of_operators_has = {"--config", "--state", "--json"} if "[WHICH]" in usage else set()
    assert {*OPTION.findall(usage)} | every_command_of_operators_has == options(dict(commands())[name]).keys()


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_section_tells_choices_and_defaults(name: str) -> None:
    command = dict(commands())[name]
    for form, may_be in choices(command).items():
        assert f"{form} {'|'.join(may_be)}" in usage_of(name)
    for parameter in options(command).values():
        if parameter.default not in (None, False) and isinstance(parameter.default, str | int):
            told = rf"by\s+default\s+`?{re.escape(str(parameter.default))}\b"
            assert re.search(told, section(page("command-line.md"), f"### `{name}`")), parameter.name


def test_every_section_of_the_reference_is_a_command() -> None:
    assert set(re.findall(r"^### `(.+)`$", page("command-line.md"), re.MULTILINE)) == {name for name, _ in commands()}


def names_in(*files: str) -> set[str]:
    """`signal.SIGHUP` and the like, wherever these modules name them."""
    trees = [ast.parse((SOURCES / file).read_text()) for file in files]
    return {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_the_reference_lists_every_signal_that_the_server_heeds() -> None:
    listed = {name for row in table_rows(server_section()) for name in re.findall(r"\bSIG[A-Z0-9]+\b", row[0])}
    heeded = names_in("cli/serve.py", "cli/process.py", "cli/signals.py")
    assert listed == {name for name in heeded if re.fullmatch("SIG[A-Z0-9]+", name)}


@pytest.mark.parametrize("heading", ["## `spalloc_server`", "## `spalloc-admin`"])
def test_the_reference_tells_the_exit_statuses(heading: str) -> None:
    exits: set[object] = {click.UsageError.exit_code}
    other = "admin.py" if "spalloc_server" in heading else "serve.py"
    for path in (SOURCES / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                path.name != other
                and isinstance(node, ast.Call)
                and ast.unparse(node.func) in {"sys.exit", "click.exceptions.Exit"}
            ):
                exits.update(each.value for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant))
    rows = table_rows(section(page("command-line.md"), heading))
    assert {int(row[0]) for row in rows if row[0].isdigit()} == exits


# -------------------------------------------------------------------- what pages tell the reader to type


def test_every_option_that_any_page_names_exists() -> None:
    existing = {*HELP}.union(options(serve), options(web), *(options(command) for _, command in commands()))
    tests_and_docs = {"--run-conformance", "--run-torture"}
    for path in [path for path in PAGES if path.name != "conformance.md"]:  # which names those of published clients
        named = set(OPTION.findall(" ".join(re.findall(r"`[^`\n]+`", path.read_text()))))
        long = {option for option in named if option.startswith("--")}
        assert long <= existing | OPTIONS_OF_OTHERS | tests_and_docs, path


PROGRAMS = r"(?:\S*/)?(?:spalloc-admin|spalloc[_-]server|make)(?: |$)"


def examples() -> set[str]:
    """Lines of blocks of code that call this project's commands."""
    found = set()
    for path in PAGES:
        text = re.sub(r"^```(?!sh|console|$).*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        for line in re.findall(r"^(?: {4,}|(?:\$ ))(.+)$", text, re.MULTILINE):
            command = line.partition("  #")[0].removeprefix("$ ").removeprefix("sudo -u spalloc ").strip()
            if re.match(PROGRAMS, command):
                found.add(command)
    return found


def in_sentences() -> set[str]:
    """Commands in the middle of text; a word in capitals stands for something, and they may end early."""
    text = "\n".join(re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL) for path in PAGES)
    return {span for span in spans(text) if "\n" not in span and re.match(PROGRAMS, span)}


@pytest.mark.parametrize("line", sorted(line for line in examples() if "[" not in line))
def test_every_command_in_the_docs_can_be_given(line: str) -> None:
    give(line)


@pytest.mark.parametrize("line", sorted(in_sentences()))
def test_every_command_in_a_sentence_can_be_given(line: str) -> None:
    with contextlib.suppress(click.MissingParameter):
        give(re.sub(r"\b[A-Z][A-Z_]*\b(?!=)", "1", line))


def give(line: str) -> None:
    program, *arguments = shlex.split(line.partition(" > ")[0])
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {argument for argument in arguments if "=" not in argument} <= targets
        return
    command: click.Command = admin if program.endswith("admin") else serve
    if {"--help", "--version"}.intersection(arguments):
        return
    while isinstance(command, click.Group) and arguments:
        context = command.make_context(program, arguments)
        _, found, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        command = found
    if not isinstance(command, click.Group):
        command.make_context(program, arguments)
