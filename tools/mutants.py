"""How many small changes of the code the tests notice: `make mutants SEED=n`.

Theory of operation. A *mutant* is the code with one small change: a comparison, an operator, a number or a constant is
another one, a condition is negated, a loop does not run, a call is left out. cosmic-ray makes the mutants; one that no
test notices has *survived*. All mutants would take days. So a sample is drawn with a seed, and as many of it are tried,
in the order in which they are drawn, as two processes can in `MINUTES`.

Each process has a copy of the project. One run of the tests of the rooms with coverage says which tests execute which
line, and how long each takes. A mutant is tried by the tests that execute its line, until one fails: first a few of its
own room, the quickest and no two alike; then the others of its room; then those of the rooms around it. Tests that do
not end in time count as failed.

A mutant is killed by a failing test only where that test, alone in the same copy, passes without the change. Where
tests cannot even be collected, they must be without the change. Else `SystemExit` says so: nothing that is broken for
another reason counts as a kill. `tools/forked_tests.py` runs the tests, and says where the package is not the copy's.

Left alone are annotations, decorators, the keywords of a class, texts, and the constants of modules, of which most are
numbers that somebody has chosen. A survivor of which no test could tell is listed in `tools/equivalent_mutants.toml`,
with the reason, and is not tried again.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator, operator_names
from coverage import CoverageData
from parso.python.tree import Name

from tools.forked_tests import ELSEWHERE, FAILED, LATE, PASSED

ROOT = Path(__file__).parents[1]
PACKAGE = Path("src/spalloc_server")

ROOMS = {
    "core": (("tests/core", "tests/test_controller.py"), ("tests/frontends/v1", "tests/application")),
    "application": (("tests/application",), ("tests/frontends",)),
    "hardware": (("tests/hardware",), ("tests/test_hardware_that_misbehaves.py",)),
}
"""{folder whose code is changed: (tests of this room, tests of the rooms around it)}."""

MINUTES = 20.0
BAR = 0.9
PROCESSES = 2
LEFT_OUT = (".git", ".venv", ".venvs", "_build", "__pycache__", ".*_cache", ".hypothesis", ".coverage*")
PYTEST = (
    *("-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--hypothesis-profile=mutants"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # of plugins, which `forked_tests` has loaded before
)
MOST_SECONDS = 40.0, 20.0
"""That tests of a mutant's room, and of those around it, may take for one mutant, by the time that they took at first.
The slowest are left out, so a mutant that only these would notice counts as survived."""
CASE_SECONDS = 0.005
"""By so much another case of the same test comes later: cases that are alike notice the same."""
FIRST = 30
"""Tests that are tried before the others: most mutants need no more, and to collect many takes long."""


class LeaveOutCall(Operator):  # type: ignore[misc]
    """A statement that is only a call is left out."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Yield where `node` is such a statement."""
        call = node.children[0] if node.type == "simple_stmt" else None
        if call is not None and call.type in {"atom_expr", "power"} and call.get_last_leaf() == ")":
            yield call.start_pos, call.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Put `pass` in its place."""
        first = node.get_first_leaf()
        node.children[0] = Name("pass", first.start_pos, first.prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """Return what it does."""
        return (Example("f(x)\n", "pass\n"),)


@dataclass(frozen=True)
class Place:
    """Where, and how, a module can be changed."""

    path: Path
    """Of the module, from the project's root."""
    operator: Operator
    occurrence: int

    @property
    def room(self) -> str:
        """The folder of the package that the module is in."""
        return self.path.relative_to(PACKAGE).parts[0]


@dataclass(frozen=True)
class Mutant:
    """A module with one small change."""

    place: Place
    line: int
    """The first that differs."""
    before: str
    after: str
    text: str
    """The whole module, changed."""

    def __str__(self) -> str:
        return f"{self.place.path}:{self.line}\n    - {self.before}\n    + {self.after}"


# -------------------------------------------------------------------- which mutants there are


def operators() -> dict[str, list[Operator]]:
    """Return {kind of change: operators}: of each kind, a place has one mutant."""
    kinds = defaultdict[str, list[Operator]](list)
    kinds["LeaveOutCall"].append(LeaveOutCall())
    for name in sorted(operator_names()):
        operator = get_operator(name)
        same_for_most_values = re.search("_(Eq|NotEq)_Is|_(Is|IsNot)_(Eq|NotEq)", name)
        if not operator.arguments() and not same_for_most_values and "Decorator" not in name and "NoOp" not in name:
            kinds[name.partition("/")[2].partition("_")[0]].append(operator())
    return kinds


def left_alone(tree: ast.Module) -> set[int]:
    """Return the lines of which nothing is changed; see the theory of operation."""
    constants = (ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom)
    nodes: list[ast.expr | ast.stmt] = [each for each in tree.body if isinstance(each, constants)]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            nodes += [each for each in (node.returns, *(argument.annotation for argument in arguments)) if each]
            nodes += node.decorator_list
        elif isinstance(node, ast.ClassDef):
            nodes += [*node.decorator_list, *node.bases, *(each.value for each in node.keywords)]
        elif isinstance(node, ast.AnnAssign):
            nodes.append(node.annotation)
        elif isinstance(node, ast.JoinedStr):
            nodes.append(node)
    return set(chain.from_iterable(range(each.lineno, (each.end_lineno or 0) + 1) for each in nodes))


def places_of(path: Path, choose: random.Random) -> Iterator[Place]:
    """Yield the places of a module: of several changes of one kind in one place, one that is drawn."""
    code = (ROOT / path).read_text(encoding="utf-8")
    alone = left_alone(ast.parse(code))
    nodes = list(ast_nodes(get_ast(code)))
    for kind in operators().values():
        changes = defaultdict[tuple[int, int], list[Place]](list)
        for operator in kind:
            found = [start for node in nodes for start, _ in operator.mutation_positions(node)]
            for occurrence, start in enumerate(found):
                changes[start].append(Place(path, operator, occurrence))
        yield from (choose.choice(each) for (line, _), each in sorted(changes.items()) if line not in alone)


def drawn(seed: int, only: str) -> list[Place]:
    """Return all places of the modules whose path has this in it, in the order in which they are tried."""
    choose = random.Random(seed)
    paths = [path.relative_to(ROOT) for room in ROOMS for path in sorted((ROOT / PACKAGE / room).rglob("*.py"))]
    places = [place for path in paths if only in str(path) for place in places_of(path, choose)]
    choose.shuffle(places)
    return places


@cache
def equivalent() -> set[tuple[str, str, str]]:
    """Return (module, line before, line after) of the mutants of which no test could tell."""
    listed = tomllib.loads((ROOT / "tools" / "equivalent_mutants.toml").read_text(encoding="utf-8"))
    return {(each["module"], each["before"], each["after"]) for each in listed.get("mutant", [])}


def mutant_at(place: Place) -> Mutant | None:
    """Return the mutant, or None where the change is none, or is one of which no test could tell."""
    code = (ROOT / place.path).read_text(encoding="utf-8")
    text = mutate_code(code, place.operator, place.occurrence)
    if text is None or not is_another(code, text):
        return None
    pairs = enumerate(zip(code.splitlines(), text.splitlines(), strict=False), 1)
    for line, (before, after) in pairs:
        if before != after:
            known = (place.path.relative_to(PACKAGE).as_posix(), before.strip(), after.strip()) in equivalent()
            return None if known else Mutant(place, line, before.strip(), after.strip(), text)
    return None


def is_another(code: str, text: str) -> bool:
    """Whether this is Python, and another program."""
    try:
        return ast.dump(ast.parse(text)) != ast.dump(ast.parse(code))
    except SyntaxError:
        return False


# -------------------------------------------------------------------- which tests there are


@dataclass
class Tests:
    """The tests that execute each line, and how long they take."""

    seconds: dict[str, float]
    by_line: dict[tuple[Path, int], set[str]]

    def of(self, mutant: Mutant) -> list[list[str]]:
        """Return the tests that execute the mutant's statement, in the order in which they are tried."""
        tree = ast.parse((ROOT / mutant.place.path).read_text(encoding="utf-8"))
        enclosing = [each for each in ast.walk(tree) if isinstance(each, ast.stmt) and covers(each, mutant.line)]
        statement = max(enclosing, key=lambda each: each.lineno)
        last = statement.body[0].lineno if hasattr(statement, "body") else (statement.end_lineno or 0) + 1
        lines = range(statement.lineno, max(last, mutant.line + 1))
        functions = [each for each in enclosing if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
        if statement in functions:  # its defaults, which matter where it is called
            lines = range(statement.lineno, (statement.end_lineno or 0) + 1)
        elif not functions:  # executed once, by the test that is the first to import it
            lines = range(1 + mutant.text.count("\n"))
        names = set[str]().union(*(self.by_line.get((mutant.place.path, line), set()) for line in lines))
        if not functions:
            files = {name.partition("::")[0] for name in names}  # none for a module without any function
            names = {name for name in self.seconds if not files or name.partition("::")[0] in files}
        own, around = (
            self._in_time(self._quickest_first(name for name in names if name.startswith(folders)), seconds)
            for folders, seconds in zip(ROOMS[mutant.place.room], MOST_SECONDS, strict=True)
        )
        return [each for each in (own[:FIRST], own[FIRST:], around) if each]

    def _in_time(self, names: list[str], seconds: float) -> list[str]:
        """Return the first of these tests that take no more seconds together."""
        ends = accumulate(self.seconds.get(name, 0.0) for name in names)
        return [name for name, end in zip(names, ends, strict=True) if end <= seconds]

    def _quickest_first(self, names: Iterable[str]) -> list[str]:
        """Order tests by how long they take; the further cases of a test somewhat later."""
        cases = Counter[str]()
        later = {}
        for name in sorted(names, key=lambda name: (self.seconds.get(name, 0.0), name)):
            function = name.partition("[")[0]
            later[name] = self.seconds.get(name, 0.0) + CASE_SECONDS * cases[function], name
            cases[function] += 1
        return sorted(later, key=later.__getitem__)


def covers(node: ast.stmt, line: int) -> bool:
    """Whether a statement has this line."""
    return node.lineno <= line <= (node.end_lineno or 0)


def measured(copy: Path, rooms: set[str]) -> Tests:
    """Run the tests of these rooms, and of those around them, once, and return which lines each of them executes.

    Raises:
        SystemExit: a test fails without any change.
    """
    config = copy / "coverage-of-tests.ini"
    config.write_text("[run]\nrelative_files = true\nsource = src/spalloc_server\n")
    folders = sorted({folder for room in rooms for folder in chain(*ROOMS[room])})
    options = ("--cov", f"--cov-config={config}", "--cov-context=test", "--cov-report=", "--durations=0", "-vv")
    command = [sys.executable, "-m", "pytest", *PYTEST, "-n", str(PROCESSES), "--durations-min=0", *options, *folders]
    ran = subprocess.run(command, cwd=copy, env=environment(copy), capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{ran.stdout[-3000:]}\n\nThe tests must pass without any change.")
    seconds = defaultdict[str, float](float)
    for duration, name in re.findall(r"^([\d.]+)s \w+ +(tests/.+)$", ran.stdout, re.MULTILINE):
        seconds[name] += float(duration)
    data = CoverageData(str(copy / ".coverage"))
    data.read()
    by_line = {}
    for file in data.measured_files():
        for line, contexts in data.contexts_by_lineno(file).items():
            by_line[Path(file), line] = {each.rpartition("|")[0] for each in contexts} - {""}
    return Tests(dict(seconds), by_line)


def load(copy: Path) -> None:
    """Have all modules compiled, which `measured` does in its copy."""
    command = [sys.executable, "-m", "pytest", *PYTEST, "--collect-only", *chain(*chain(*ROOMS.values()))]
    subprocess.run(command, cwd=copy, env=environment(copy), stdout=subprocess.DEVNULL, check=True)


def environment(copy: Path) -> dict[str, str]:
    """Return an environment in which the package is that of a copy of the project."""
    return {**os.environ, "PYTHONPATH": str(copy / "src")}


# -------------------------------------------------------------------- trying them


class Copy:
    """A copy of the project, in which tests run."""

    def __init__(self, folder: Path, tests: Tests) -> None:
        self._folder, self._tests = folder, tests
        self._sound = set[str]()
        """Tests that pass alone, without any change."""
        command = [sys.executable, str(Path(__file__).with_name("forked_tests.py"))]
        self._server = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment(folder), "PYTHONDONTWRITEBYTECODE": "1"},  # so what is loaded is never an earlier mutant
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the process that runs the tests."""
        self._server.communicate()

    def survives(self, mutant: Mutant) -> bool:
        """Whether no test notices a mutant.

        Raises:
            SystemExit: what noticed it fails without it, too.
        """
        path = self._folder / mutant.place.path
        original = path.read_text(encoding="utf-8")
        for names in self._tests.of(mutant):
            path.write_text(mutant.text, encoding="utf-8")
            try:
                failed = self._failing(names)
            finally:
                path.write_text(original, encoding="utf-8")
            if failed:
                self._check(failed)
                return False
        return True

    def _failing(self, names: list[str]) -> list[str]:
        """Run these tests; return the one that failed, or all of them where none could be run or they did not end."""
        code = self._run(*names)
        if code not in {PASSED, FAILED, LATE}:  # the change may have given the cases of a test other names
            names = list(dict.fromkeys(name.partition("[")[0] for name in names))
            code = self._run(*names)
        if code == FAILED:
            for line in self._output().splitlines():
                told = line.removeprefix("FAILED ").removeprefix("ERROR ")
                if told != line and (found := [name for name in names if told.startswith(name)]):
                    return [max(found, key=len)]
            sys.exit(f"{self._output()[-3000:]}\n\nIt does not tell which test has failed.")
        return [] if code == PASSED else names

    def _output(self) -> str:
        """Return what pytest printed last."""
        return (self._folder / "output").read_text(encoding="utf-8", errors="replace")

    def _check(self, failed: list[str]) -> None:
        """Make sure that what failed does not fail without the change."""
        if len(failed) == 1 and failed[0] in self._sound:
            return
        code = self._run(*failed) if len(failed) == 1 else self._run("--collect-only", *failed)
        if code != PASSED:
            sys.exit(f"{self._output()[-3000:]}\n\nThis fails without any change: {', '.join(failed[:3])}")
        if len(failed) == 1:
            self._sound.update(failed)

    def _run(self, *names: str) -> int:
        """Run tests; return what pytest returns, or `LATE`."""
        (self._folder / "tests-to-run").write_text("\n".join(names))
        seconds = [self._tests.seconds.get(name, 0.0) for name in names]
        arguments = [*PYTEST, "-x", "--no-cov", f"--timeout={10 + 10 * max(seconds):.0f}", "-rfE", "@tests-to-run"]
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps([30 + 5 * sum(seconds), arguments]), file=self._server.stdin, flush=True)
        code = int(self._server.stdout.readline())
        if code == ELSEWHERE:
            sys.exit(f"the tests ran another package than that of {self._folder}")
        return code


def tried(copies: list[Copy], places: list[Place], until: float) -> Iterator[tuple[Mutant, bool]]:
    """Yield (mutant, whether it has survived) of those that are tried in time, in the order in which they end."""
    waiting, done = SimpleQueue[Place](), SimpleQueue[tuple[Mutant, bool]]()
    for place in places:
        waiting.put(place)

    def work(copy: Copy) -> None:
        while time.monotonic() < until:
            try:
                mutant = mutant_at(waiting.get_nowait())
                if mutant is not None:
                    done.put((mutant, copy.survives(mutant)))
            except Empty:
                return
            except BaseException:
                while not waiting.empty():  # the others need not go on
                    waiting.get_nowait()
                raise

    with ThreadPoolExecutor() as pool:
        working = [pool.submit(work, copy) for copy in copies]
        while not all(each.done() for each in working) or not done.empty():
            try:
                yield done.get(timeout=0.5)
            except Empty:
                continue
        for each in working:
            each.result()
    for copy in copies:
        copy.close()


def main() -> int:
    """Try a sample; return 0 where enough of it is noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--most", type=int, default=10**6, help="mutants that are tried at most")
    parser.add_argument("--only", default="", help="a part of the modules' paths")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    places = drawn(options.seed, options.only)
    print(f"{len(places)} mutants; a sample of them is tried for {options.minutes:g} minutes", flush=True)
    with TemporaryDirectory(prefix="mutants-") as folder:
        copies = [Path(folder) / str(number) for number in range(PROCESSES)]
        for copy in copies:
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
        tests = measured(copies[0], {place.room for place in places})
        print(f"{len(tests.seconds)} tests of these rooms pass", flush=True)
        for copy in copies[1:]:
            load(copy)
        survivors, count = [], 0
        for mutant, survived in tried([Copy(copy, tests) for copy in copies], places[: options.most], until):
            count += 1
            if survived:
                survivors.append(mutant)
                print(f"survived: {mutant}", flush=True)
    killed = count - len(survivors)
    share = killed / max(count, 1)
    print(f"seed {options.seed}: {count} tried, {killed} killed, {len(survivors)} survived: {share:.1%} killed")
    return 0 if count and share >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
