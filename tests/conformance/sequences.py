"""Random sequences of commands, each the same for one seed: what users send, and what nobody should."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

__all__ = ["JobReference", "Step", "sequence"]

MACHINES = ("even", "odd", "triad", "second")
LENGTHS = (8, 24)
ODD_VALUES: tuple[Any, ...] = (None, True, False, 0, -1, 1.5, "1", "x", "", [], {}, [1], 10**20)


@dataclass(frozen=True, slots=True)
class JobReference:
    """The job that the `number`th `create_job` of the sequence made, counted from 0."""

    number: int


@dataclass(frozen=True, slots=True)
class Step:
    """One request; or, where `line` is there, a line that is no request."""

    command: str = ""
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    line: bytes | None = None

    def encoded(self, jobs: list[int]) -> bytes:
        """The line to send to a server whose jobs have these ids."""
        if self.line is not None:
            return self.line

        def known(value: Any) -> Any:
            return jobs[value.number] if isinstance(value, JobReference) else value

        args = [known(value) for value in self.args]
        kwargs = {name: known(value) for name, value in self.kwargs}
        return json.dumps({"command": self.command, "args": args, "kwargs": kwargs}).encode()

    @property
    def names(self) -> dict[str, Any]:
        """Its arguments by name."""
        return dict(self.kwargs)

    def is_sound(self) -> bool:
        """Whether this `create_job` is one that the documentation allows, of whatever size."""
        names = self.names
        checks: dict[str, Callable[[Any], bool]] = {
            "owner": lambda value: isinstance(value, str),
            "keepalive": lambda value: value is None or type(value) in (int, float) or value == "3600",
            "machine": lambda value: value is None or isinstance(value, str),
            "tags": lambda value: value is None or (isinstance(value, list) and all(type(tag) is str for tag in value)),
            "min_ratio": lambda value: type(value) in (int, float) and value >= 0,
            "max_dead_boards": lambda value: value is None or type(value) is int,
            "max_dead_links": lambda value: value is None or type(value) is int,
            "require_torus": lambda value: isinstance(value, bool),
        }
        single = self.args in ((), (1,)) or len(self.args) == 3
        return (
            len(self.args) <= 3
            and all(type(size) is int for size in self.args)
            and all(name in checks and checks[name](value) for name, value in self.kwargs)
            and (names.get("machine") is None or names.get("tags") is None)
            and not (single and names.get("require_torus"))
        )

    def subjects(self) -> list[JobReference]:
        """The jobs of the sequence that it names."""
        return [value for value in (*self.args, *self.names.values()) if isinstance(value, JobReference)]


def sequence(seed: int) -> list[Step]:
    """The sequence of that seed."""
    random = Random(seed)
    generator = _Generator(random)
    return [generator.step() for _ in range(random.randint(*LENGTHS))]


class _Generator:
    def __init__(self, random: Random) -> None:
        self._random = random
        self._created = 0

    def step(self) -> Step:
        kinds = {
            self._create: 30,
            self._create_oddly: 12,
            self._ask_about_job: 25,
            self._change_job: 18,
            self._ask_oddly: 6,
            self._list: 12,
            self._where_is: 22,
            self._position: 8,
            self._watch: 6,
            self._garbage: 4,
        }
        (kind,) = self._random.choices(list(kinds), list(kinds.values()))
        return kind()

    def _one_of(self, *values: Any) -> Any:
        return self._random.choice(values)

    def _step(self, *steps: Step) -> Step:
        return self._random.choice(steps)

    def _maybe(self, chance: float) -> bool:
        return self._random.random() < chance

    def _job(self) -> Any:
        if self._created and self._maybe(0.93):
            return JobReference(self._random.randrange(self._created))
        return self._one_of(0, -1, 10**9, 10**9 + 1)

    def _create(self) -> Step:
        self._created += 1
        sizes: Any = self._one_of(
            (), (1,), (1,), (2,), (3,), (4,), (5,), (6,), (9,), (12,), (17,), (24,), (25,),
            (1, 1), (2, 1), (1, 2), (2, 2), (3, 2), (4, 2), (4, 1), (5, 5),
            (0, 0, 0), (1, 0, 1), (0, 0, 2), (0, 1, 1), (3, 1, 2), (2, 1, 0), (9, 0, 0),
        )  # fmt: skip
        kwargs: dict[str, Any] = {"owner": self._one_of("alice", "bob", "é", "")}
        kwargs["keepalive"] = self._one_of(None, 3600, 3600.0, "3600", 1e6)
        if self._maybe(0.6):
            kwargs["machine"] = self._one_of(*MACHINES)
        elif self._maybe(0.5):
            kwargs["tags"] = self._one_of(["default"], ["small"], ["small", "faulty"], ["none"], [], None)
        options = {
            "min_ratio": self._one_of(0, 0.0, 0.333, 0.5, 1.0, 2.0),
            "max_dead_boards": self._one_of(0, 1, 2, None),
            "max_dead_links": self._one_of(0, 1, 2, 5, None),
            "require_torus": self._one_of(True, False, False),
        }
        kwargs |= {name: value for name, value in options.items() if self._maybe(0.25)}
        return Step("create_job", sizes, tuple(kwargs.items()))

    def _create_oddly(self) -> Step:
        """A good request with one thing wrong or odd; it may create a job all the same."""
        good = self._create()
        sizes, kwargs = good.args, good.names
        match self._one_of("sizes", "owner", "keepalive", "unknown", "value", "both"):
            case "sizes":
                sizes = self._one_of(
                    (0,), (-1,), (2.5,), ("4",), ("x",), (None,), (None, None), (2, 1, None), (4, None), (None, 4),
                    ([2],), ({},), (True,), (False,), (1.0,), (3.0,), (1.0, 2.0), ("1", "1"), (0, 1), (-1, 2),
                    (1, 2, 3, 4), (1, 2, 3, 4, 5), (0, 0, 3), (-1, 0, 0), (10**12,), (10**12, 1),
                )  # fmt: skip
            case "owner":
                kwargs["owner"] = self._one_of(None, 3, True, ["a"], {"a": 1}, 1.5)
            case "keepalive":
                kwargs["keepalive"] = self._one_of("abc", "", [], {}, " 3600 ", "1e4", 0, -1, -0.5)
            case "unknown":
                kwargs[self._one_of("foo", "width", "x", "priorities", "job_id")] = 1
            case "value":
                kwargs[self._one_of("min_ratio", "max_dead_boards", "max_dead_links", "require_torus", "machine")] = (
                    self._one_of(*ODD_VALUES)
                )
            case "both":
                kwargs |= {"machine": self._one_of(*MACHINES), "tags": self._one_of([], ["default"], "small", 3, [3])}
        return Step("create_job", sizes, tuple(kwargs.items()))

    def _ask_about_job(self) -> Step:
        command = self._one_of("get_job_state", "get_job_state", "get_job_machine_info", "job_keepalive")
        if self._maybe(0.2):
            return Step(command, (), (("job_id", self._job()),))
        return Step(command, (self._job(),))

    def _change_job(self) -> Step:
        command = self._one_of("power_on_job_boards", "power_off_job_boards", "destroy_job", "destroy_job")
        job = self._job()
        if command == "destroy_job" and self._maybe(0.6):
            reason = self._one_of("over", "", None, "ünï", 3)
            return self._step(
                Step(command, (job, reason)),
                Step(command, (job,), (("reason", reason),)),
                Step(command, (), (("job_id", job), ("reason", reason))),
            )
        return Step(command, (job,))

    def _ask_oddly(self) -> Step:
        """A known command with arguments that it does not have, or of a wrong kind."""
        command = self._one_of(
            "version", "job_keepalive", "get_job_state", "get_job_machine_info", "power_on_job_boards",
            "power_off_job_boards", "destroy_job", "notify_job", "no_notify_job", "notify_machine",
            "no_notify_machine", "list_jobs", "list_machines", "get_board_position", "get_board_at_position",
            "where_is", "create_job",
        )  # fmt: skip
        return self._step(
            Step(command),
            Step(command, (1, 2, 3, 4, 5, 6, 7)),
            Step(command, (), (("bogus", 1),)),
            Step(command, (self._one_of(1.5, "1", "x", None, [], [1], {}, 10**20),)),
            Step(command, (1,), (("job_id", 1),)),
        )

    def _list(self) -> Step:
        return Step(self._one_of("list_jobs", "list_jobs", "list_machines", "version"))

    def _coordinate(self, limit: int) -> Any:
        if self._maybe(0.08):
            return self._one_of(*ODD_VALUES, 1.0)
        return self._random.randint(-1, limit)

    def _where_is(self) -> Step:
        machine = self._one_of(*MACHINES) if self._maybe(0.9) else self._one_of("nowhere", 3, None, [])
        match self._one_of("board", "place", "chip", "job", "job", "job", "wrong"):
            case "board":
                kwargs = {"machine": machine, "x": self._coordinate(4), "y": self._coordinate(2)}
                kwargs["z"] = self._coordinate(3)
            case "place":
                kwargs = {"machine": machine, "cabinet": self._coordinate(5), "frame": self._coordinate(1)}
                kwargs["board"] = self._coordinate(24)
            case "chip":
                kwargs = {"machine": machine, "chip_x": self._coordinate(60), "chip_y": self._coordinate(40)}
            case "job":
                kwargs = {"job_id": self._job(), "chip_x": self._coordinate(50), "chip_y": self._coordinate(30)}
            case _:
                names = ("machine", "x", "y", "z", "cabinet", "frame", "board", "chip_x", "chip_y", "job_id")
                kwargs = dict.fromkeys(self._random.sample(names, self._random.randint(1, 5)), 0)
        return Step("where_is", (), tuple(kwargs.items()))

    def _position(self) -> Step:
        machine = self._one_of(*MACHINES) if self._maybe(0.9) else self._one_of("nowhere", 3, None, [])
        command = self._one_of("get_board_position", "get_board_at_position")
        values = (machine, self._coordinate(4), self._coordinate(2), self._coordinate(24))
        if self._maybe(0.5):
            return Step(command, values)
        return Step(command, (), tuple(zip(("machine_name", "x", "y", "z"), values, strict=True)))

    def _watch(self) -> Step:
        what = self._one_of("job", "machine")
        command = f"{self._one_of('notify', 'no_notify')}_{what}"
        subject = self._job() if what == "job" else self._one_of(*MACHINES, "nowhere")
        return self._step(Step(command), Step(command, (subject,)), Step(command, (None,)))

    def _garbage(self) -> Step:
        lines = (
            b"not json", b"{}", b"[]", b'"command"', b"3", b"null", b'{"command": 3}', b'{"command": null}',
            b'{"command": "nope"}', b'{"command": ""}', b'{"command": "version", "args": null}',
            b'{"command": "version", "args": {}}', b'{"command": "version", "args": "x"}',
            b'{"command": "version", "kwargs": null}', b'{"command": "version", "kwargs": []}',
            b'{"command": "version", "kwargs": {"client": 1}}', b'{"command": "version", "extra": 1}',
            b'\n{"command": "version"}', b'{"command": "version"}\r', b"\xff\xfe", b'{"command": "version"} x',
            b'{"command": "version"}{"command": "version"}', b'\xef\xbb\xbf{"command": "version"}',
            b'{"command": "version", "args": [1]}', b'{"command": "list_jobs", "kwargs": {"a": 1}}',
        )  # fmt: skip
        return Step(line=self._one_of(*lines))
