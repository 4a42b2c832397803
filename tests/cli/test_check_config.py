"""`spalloc-admin check-config`: what a config file says, and what it would change."""

from __future__ import annotations

import os
import re
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st

from spalloc_server.cli.check_config import check_config
from spalloc_server.config.load import load
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller, Outcome
from spalloc_server.storage.rows import encode
from spalloc_server.storage.state_file import connect, transaction
from tests.cli.commands import one_line_of

EXAMPLES = Path(__file__).parents[2] / "examples"
TWO = """
[[machine]]
form = "standard_ips"
name = "small"
board_locations = "spinner-24.csv"
dead_boards = [[0, 0, 1]]
dead_links = [[1, 0, 0, "north"], [2, 0, 0, "north"]]
[[machine]]
form = "single_board"
name = "desk"
tags = ["test", "desk"]
bmp_ip = "10.0.0.1"
spinnaker_ip = "10.0.0.2"
"""


def write(folder: Path, text: str) -> Path:
    (folder / "spinner-24.csv").write_bytes((EXAMPLES / "spinner-24.csv").read_bytes())
    config = folder / "config.toml"
    config.write_text(text)
    return config


def told(*arguments: Path | str) -> list[str]:
    result = CliRunner().invoke(check_config, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_a_file_that_is_empty_or_cut_off_is_bad_and_one_that_says_so_has_no_machines(tmp_path: Path) -> None:
    for text in ("", "port = 1\n", "# nothing"):
        assert "it names no machines" in one_line_of(check_config, write(tmp_path, text))
    assert told(write(tmp_path, "machine = []")) == [f"{tmp_path / 'config.toml'} is good: 0 machines, 0 boards"]
    script = tmp_path / "config.py"
    script.write_text("")
    assert "binds no `configuration`" in one_line_of(check_config, script)
    script.write_text("configuration = Configuration()")
    assert told(script) == [f"{script} is good: 0 machines, 0 boards"]


def store(config: Path, state: Path) -> None:
    """A server's state: a job of 24 boards on `small`, one on `desk`, and one that waits for `small`."""
    core = Controller()
    core.configure(load(config))
    for arguments, keywords in (
        ((4, 1), {"machine": "small"}),
        ((), {"tags": ["desk"]}),
        ((4, 2), {"machine": "small"}),
    ):
        core.create_job(*arguments, owner="someone", **keywords)
    for switch in core.take_switches():
        core.switched(Outcome(switch.operation))
    with closing(connect(state)) as connection, transaction(connection):
        encode(core.take_changes()).store(connection)


def test_it_describes_what_the_file_says(tmp_path: Path) -> None:
    config = write(tmp_path, TWO)
    assert told(config) == [
        "small: 4 x 2 triads, 23 boards in 1 frame, 1 dead board, 2 dead links, tags default",
        "desk: 1 x 1 triads, 1 board in 1 frame, tags desk, test",
        f"{config} is good: 2 machines, 24 boards",
    ]


def test_a_port_in_the_file_is_warned_of(tmp_path: Path) -> None:
    assert told(write(tmp_path, "port = 23999\n" + TWO))[2].startswith(
        "warning: `port` in the config file is deprecated"
    )
    script = tmp_path / "config.py"
    script.write_text("configuration = Configuration(port=None)")
    assert told(script)[0].startswith("warning: `port` in the config file is ignored")
    assert not any("warning" in line for line in told(write(tmp_path, TWO)))


def test_a_bad_file_is_reported_in_one_line(tmp_path: Path) -> None:
    line = one_line_of(check_config, write(tmp_path, TWO.replace("[0, 0, 1]", "[0, 0, 5]")))
    assert line.startswith(
        f"spalloc-admin check-config: {tmp_path / 'config.toml'}, line 2: machine 'small': dead board"
    )


def test_the_same_file_changes_nothing(tmp_path: Path) -> None:
    config = write(tmp_path, TWO)
    store(config, tmp_path / "state.db")
    before = (tmp_path / "state.db").read_bytes()
    assert told(config, "--against", tmp_path / "state.db")[3:] == ["no machine would change", "0 jobs of 3 would end"]
    assert (tmp_path / "state.db").read_bytes() == before


def test_dead_boards_leave_jobs_alone_and_new_addresses_end_them(tmp_path: Path) -> None:
    store(write(tmp_path, TWO), tmp_path / "state.db")
    config = write(tmp_path, TWO.replace("[[0, 0, 1]]", "[[0, 0, 1], [3, 1, 2]]").replace("10.0.0.1", "10.0.0.9"))
    assert told(config, "--against", tmp_path / "state.db")[3:] == [
        "machine desk: replaced (1 BMP addresses differ)",
        "machine small: dead boards +1 -0",
        "job 2 of someone (1 board) would end: Machine removed.",
        "1 job of 3 would end",
    ]


def test_jobs_whose_own_boards_stay_would_go_on(tmp_path: Path) -> None:
    store(write(tmp_path, TWO), tmp_path / "state.db")
    config = write(tmp_path, TWO.replace('"desk"\ntags', '"table"\ntags'))
    assert told(config, "--against", tmp_path / "state.db")[3:] == [
        "machine desk: renamed to table",
        "0 jobs of 3 would end",
    ]
    wiring = tmp_path / "spinner-24.csv"
    lines = wiring.read_text().splitlines()
    last, other = lines[-1], lines[-2]
    swapped = [",".join([*a.split(",")[:3], *b.split(",")[3:]]) for a, b in ((other, last), (last, other))]
    wiring.write_text("\n".join([*lines[:-2], *swapped]))
    lines = [line for line in told(config, "--against", tmp_path / "state.db") if "would end" in line]
    assert lines == ["job 1 of someone (12 boards) would end: Machine removed.", "1 job of 3 would end"]


def test_jobs_that_wait_in_vain_would_end(tmp_path: Path) -> None:
    store(write(tmp_path, TWO), tmp_path / "state.db")
    config = write(tmp_path, TWO[TWO.rindex("[[machine]]") :])
    lines = told(config, "--against", tmp_path / "state.db")[2:]
    assert lines[0] == "machine small: removed"
    assert lines[1].startswith("job 1 of someone (12 boards) would end: Machine removed.")
    assert lines[2].startswith("job 3 of someone (0 boards) would end: Cancelled: No suitable machines available.")
    assert lines[3:] == ["2 jobs of 3 would end"]


def test_a_state_that_does_not_exist_is_reported_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(check_config, [str(write(tmp_path, TWO)), "--against", str(tmp_path / "none.db")])
    assert result.exit_code == 1
    assert str(tmp_path / "none.db") in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_file_whose_certificate_cannot_be_had_is_bad_as_it_is_for_a_server(tmp_path: Path) -> None:
    config = write(tmp_path, f'{TWO}[access]\ntls_certificate = "missing.pem"\n')
    assert f"no TLS with certificate {tmp_path / 'missing.pem'}" in one_line_of(check_config, config)


def test_a_stored_row_that_makes_no_sense_is_reported(tmp_path: Path) -> None:
    config, state = write(tmp_path, TWO), tmp_path / "state.db"
    store(config, state)
    with closing(connect(state)) as connection:
        connection.execute("UPDATE facts SET value = '3' WHERE name = 'machine/small'")
    result = CliRunner().invoke(check_config, [str(config), "--against", str(state)])
    assert result.exit_code == 0
    assert f"facts/machine/small in {state} would be set aside, since it makes no sense: " in result.output
    assert "no machine would change" in result.output


def test_a_state_that_is_damaged_is_one_line(tmp_path: Path) -> None:
    config, state = write(tmp_path, TWO), tmp_path / "state.db"
    store(config, state)
    with closing(connect(state)) as connection:
        connection.execute("DROP TABLE boards")
    result = CliRunner().invoke(check_config, [str(config), "--against", str(state)])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert f"{state} is damaged" in line


@pytest.mark.parametrize("name", ["absent.pem", "fifo.pem", "a\\u0000b", "."])
def test_a_bad_certificate_is_told_with_the_config_file_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo.pem")
    config = write(tmp_path, f'machine = []\n[access]\ntls_certificate = "{name}"\n')
    told = one_line_of(check_config, config)
    assert f"{config}: access: no TLS with certificate" in told
    assert told.endswith("the certificate is no file")


ODD = [
    "-1",
    "0",
    "0.0",
    "-0.0",
    "1e-300",
    "24",
    "65536",
    str(2**53),
    str(2**63),
    str(2**64),
    "1e308",
    "inf",
    "nan",
    "true",
]
ODD += ['""', '"::"', '"\\u0085"', "[]", "{}", "[[0, 0, 0]]", '["default"]', "1979-05-27"]
VALUES = [
    (match.start(1), match.end(1))
    for match in re.finditer(r"(-?\d+|\"[^\"]*\"|\[[^\[\]]*\])", TWO)
    if match[1] != "[machine]"
]
SETTINGS = [name for name in Configuration.__dataclass_fields__ if name not in {"machines", "access"}]


@given(
    st.lists(st.tuples(st.sampled_from(VALUES), st.sampled_from(ODD)), max_size=2),
    st.dictionaries(st.sampled_from(SETTINGS), st.sampled_from(ODD), max_size=2),
)
def test_what_it_calls_good_a_server_can_start_with_and_store(
    place: Path, edits: list[tuple[tuple[int, int], str]], settings: dict[str, str]
) -> None:
    text = TWO
    for (begin, end), odd in sorted(edits, reverse=True):
        text = text[:begin] + odd + text[end:]
    config = write(place, "".join(f"{name} = {odd}\n" for name, odd in settings.items()) + text)
    if CliRunner().invoke(check_config, [str(config)]).exit_code == 0:
        state = place / "state.db"
        state.unlink(missing_ok=True)
        core = Controller()
        core.configure(load(config))
        core.create_job(owner="someone", tags=["desk"])
        with closing(connect(state)) as connection, transaction(connection):
            encode(core.take_changes()).store(connection)
        assert told(config, "--against", state)[-1].endswith(" would end")
    else:
        one_line_of(check_config, config)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd")
