"""`spalloc-admin simulate`: traces of every form, its figures, and what it says of bad ones."""

from __future__ import annotations

import gzip
import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from spalloc_server.cli.simulate import simulate
from spalloc_server.controller import Controller, Outcome
from spalloc_server.storage.rows import encode
from spalloc_server.storage.state_file import connect, transaction
from tests.cli.commands import one_line_of
from tests.core.machines import a_machine

CSV = "submit_s,duration_s,owner,request\n0,100,ann,2x2\n10,50,bob,12\n20,10,ann,1\n"
SVG = "{http://www.w3.org/2000/svg}"
SWF = (
    "; MaxProcs: 12\n"
    "1 0 -1 100 12 -1 -1 12 -1 -1 1 3 -1 -1 -1 -1 -1 -1\n"
    "2 10 -1 50 12 -1 -1 -1 -1 -1 1 4 -1 -1 -1 -1 -1 -1\n"
    "3 15 -1 -1 12 -1 -1 -1 -1 -1 0 4 -1 -1 -1 -1 -1 -1\n"
)


def trace(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def figures(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(simulate, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_a_trace_in_csv_on_a_machine_of_so_many_triads(tmp_path: Path) -> None:
    told = figures(trace(tmp_path, CSV), "--machine", "2x2", "--cool-down", 0, "--policy", "fifo")
    assert (told["policy"], told["jobs"], told["started"], told["cancelled"]) == ("fifo", 3, 3, 0)
    assert (told["mean_wait_s"], told["max_wait_s"], told["makespan_s"]) == (73.3, 130.0, 160.0)


def test_boards_rest_as_the_config_file_says_unless_told_otherwise(tmp_path: Path) -> None:
    one = trace(tmp_path, "submit_s,duration_s,owner,request\n0,100,ann,2x2\n0,100,bob,2x2\n")
    assert figures(one, "--machine", "2x2")["max_wait_s"] == 130.0
    assert figures(one, "--machine", "2x2", "--cool-down", 5)["max_wait_s"] == 105.0


def test_the_standard_workload_format_counts_processors_as_boards(tmp_path: Path) -> None:
    told = figures(trace(tmp_path, SWF, "trace.swf"), "--machine", "2x2", "--cool-down", 0)
    assert (told["jobs"], told["max_wait_s"], told["makespan_s"]) == (2, 90.0, 150.0)


def test_a_servers_own_history_can_be_tried_again(tmp_path: Path) -> None:
    now = [1000.0]
    core = Controller(clock=lambda: now[0])
    core.machines = {"m": a_machine("m", 2, 2)}
    for _ in range(2):
        job_id = core.create_job(12, owner="ann")
        for switch in core.take_switches():
            core.switched(Outcome(switch.operation))
        now[0] += 100
        core.destroy_job(job_id)
        now[0] += 100
        for switch in core.take_switches():
            core.switched(Outcome(switch.operation))
        now[0] += 100
        core.tick()
    core.create_job(12, owner="ann")
    with closing(connect(tmp_path / "state.db")) as connection, transaction(connection):
        encode(core.take_changes()).store(connection)
    told = figures("--from-history", tmp_path / "state.db", "--machine", "2x2", "--cool-down", 0)
    assert (told["jobs"], told["makespan_s"], told["max_wait_s"]) == (2, 400.0, 0.0)
    assert (told["true_mean_wait_s"], told["true_mean_wait_large_s"]) == (0.0, None)


def table(*arguments: object, **options: Any) -> dict[str, list[str]]:
    """{figure: what it is in each column}."""
    result = CliRunner().invoke(simulate, [*map(str, arguments)], env={"COLUMNS": "80"}, **options)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    rows = (re.split(r"  +", line.strip()) for line in result.stdout.splitlines() if line)
    told: dict[str, list[str]] = {}
    for name, *values in rows:
        told.setdefault(name, []).extend(values)
    return told


def test_people_get_machines_and_policies_side_by_side_with_units(tmp_path: Path) -> None:
    told = table(trace(tmp_path, CSV), "--machine", "2x2", "--machine", "4x2", "--policy", "fifo", "--cool-down", 0)
    assert told["figure"] == ["2x2 fifo", "4x2 fifo"]
    assert told["boards of the machine"] == ["12", "24"]
    assert told["longest wait, min"] == ["2.17", "0.67"]
    assert float(told["use until the last job came, %"][0]) == 100.0
    both = table(
        trace(tmp_path, CSV), "--machine", "2x2", "--policy", "fifo", "--policy", "backfill", "--policy", "fifo"
    )
    assert both["figure"] == ["2x2 fifo", "2x2 backfill"]


def test_tables_that_do_not_fit_beside_each_other_stand_below_each_other(tmp_path: Path) -> None:
    sizes = [word for width in range(2, 9) for word in ("--machine", f"{width}x2")]
    told = table(trace(tmp_path, CSV), *sizes)
    assert told["boards of the machine"] == [str(6 * width) for width in range(2, 9)]
    assert len(told["figure"]) == 7 + told["figure"].count("figure")


def test_machines_that_are_there_at_once_are_joined(tmp_path: Path, config: Path) -> None:
    told = json.loads(
        CliRunner()
        .invoke(
            simulate,
            [str(trace(tmp_path, CSV)), "--json", "--machine", f"{config}+2x2", "--machine", "2x2+2x2+1x1"],
        )
        .stdout
    )
    assert [each["boards"] for each in told] == [24 + 12, 12 + 12 + 3]
    assert "'frame' is used by" in one_line_of(simulate, trace(tmp_path, CSV), "--machine", f"{config}+{config}")


def test_true_waits_stand_beside_the_simulated_ones(tmp_path: Path) -> None:
    text = "submit_s,duration_s,owner,request,start_s\n0,100,ann,2x2,30\n10,50,bob,12,\n20,10,ann,1,320\n"
    told = table(trace(tmp_path, text), "--machine", "2x2", "--cool-down", 0)
    assert told["figure"][-1] == "in truth"
    assert told["mean wait, min"][-1] == "2.75"
    assert figures(trace(tmp_path, text), "--machine", "2x2")["true_max_wait_s"] == 300.0
    swf = SWF.replace("1 0 -1 100", "1 0 40 100")
    assert figures(trace(tmp_path, swf, "t.swf"), "--machine", "2x2")["true_mean_wait_s"] == 40.0
    assert "true_mean_wait_s" not in figures(trace(tmp_path, SWF, "t.swf"), "--machine", "2x2")
    early = CSV.replace("request", "request,start_s").replace("2x2", "2x2,0").replace("12", "12,9")
    assert "line 3: -1.0 is no number of seconds" in one_line_of(simulate, trace(tmp_path, early), "--machine", "2x2")


@pytest.mark.parametrize(("text", "name"), [(CSV, "t.csv.gz"), (SWF, "T.SWF.GZ")])
def test_compressed_traces_and_standard_input_are_read(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()))
    jobs = figures(path, "--machine", "2x2")["jobs"]
    for data in (text.encode(), path.read_bytes()):
        result = CliRunner().invoke(simulate, ["-", "--machine", "2x2", "--json"], input=data)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["jobs"] == jobs
    path.write_bytes(path.read_bytes()[:-12])
    assert "cannot be read" in one_line_of(simulate, path, "--machine", "2x2")


def test_a_picture_has_a_legend_and_axes_with_units(tmp_path: Path) -> None:
    picture = tmp_path / "out.svg"
    told = table(
        trace(tmp_path, CSV), "--machine", "2x2", "--policy", "fifo", "--policy", "backfill", "--plot", picture
    )
    assert len(told["figure"]) == 2
    texts = [text.text for text in ET.fromstring(picture.read_text()).iter(f"{SVG}text")]
    assert {"2x2 fifo: 12 boards", "2x2 backfill: 12 boards", "jobs that wait"} <= set(texts)
    assert "minutes since the first job was submitted" in texts


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.csv", "when,what\n1,2\n", "lacks the column duration_s"),
        ("a.csv", "submit_s,duration_s,owner,request\n0,1,me,many\n", "line 2"),
        ("a.csv", "submit_s,duration_s,owner,request\n0,soon,me,1\n", "line 2"),
        ("a.csv", "submit_s,duration_s,owner,request\n0,nan,me,1\n", "nan is no number of seconds"),
        ("a.csv", "submit_s,duration_s,owner,request\ninf,1,me,1\n", "inf is no number of seconds"),
        ("a.csv", "submit_s,duration_s,owner,request\n0,-1,me,1\n", "-1 is no number of seconds"),
        ("a.csv", "submit_s,duration_s,owner,request\n0,1\n", "line 2: it has too few columns"),
        ("a.csv", "submit_s,duration_s,owner,request\n0,1," + "m" * 140_000 + ",1\n", "field larger than field limit"),
        ("a.swf", "", "has no job"),
        ("a.swf", "\ufffd\0 1 2\n", "has no job"),
        ("a.swf", "1 2 3\n", "line 1"),
        ("a.swf", SWF + "Version: 2\n", "line 5"),
        ("a.swf", SWF.replace(" 12 ", " 1.5 "), "1.5 is no whole number"),
        ("a.swf", SWF.replace(" 12 ", " inf "), "line 2"),
        ("a.swf", SWF.replace(" 100 ", " nan "), "nan is no number of seconds"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    assert complaint in one_line_of(simulate, trace(tmp_path, text, name), "--machine", "2x2")


def test_a_trace_that_is_not_there_and_a_machine_of_no_size_are_refused(tmp_path: Path) -> None:
    assert "cannot be read" in one_line_of(simulate, tmp_path / "none.csv", "--machine", "2x2")
    assert "at least one triad" in one_line_of(simulate, trace(tmp_path, CSV), "--machine", "0x2")


def test_a_byte_order_mark_and_an_ending_in_capitals_are_no_obstacle(tmp_path: Path) -> None:
    assert figures(trace(tmp_path, "\ufeff" + CSV), "--machine", "2x2")["jobs"] == 3
    assert figures(trace(tmp_path, SWF, "TRACE.SWF"), "--machine", "2x2")["jobs"] == 2


def test_a_picture_that_could_not_be_stored_is_refused_before_the_run(tmp_path: Path) -> None:
    arguments = [str(trace(tmp_path, CSV)), "--machine", "2x2", "--plot", str(tmp_path / "nowhere" / "out.svg")]
    result = CliRunner().invoke(simulate, arguments)
    assert result.exit_code == 2
    assert "there is no folder" in result.stderr


def test_figures_have_the_names_that_other_tools_know(tmp_path: Path) -> None:
    assert list(figures(trace(tmp_path, CSV), "--machine", "2x2")) == [
        *(
            "machine",
            "boards",
            "policy",
            "jobs",
            "started",
            "cancelled",
            "utilisation",
            "useful",
            "makespan_s",
            "mean_wait_s",
        ),
        *("p95_wait_s", "max_wait_s", "mean_wait_large_s", "max_wait_large_s", "mean_slowdown", "fairness", "wall_s"),
    ]


def test_jobs_of_120_boards_and_more_are_told_apart(tmp_path: Path) -> None:
    rows = "0,100,ann,120\n1,10,bob,119\n2,10,cid,120\n"
    told = figures(trace(tmp_path, CSV.splitlines()[0] + "\n" + rows), "--machine", "8x5", "--policy", "fifo")
    assert told["max_wait_large_s"] == told["max_wait_s"]
    assert told["mean_wait_large_s"] == pytest.approx(told["max_wait_large_s"] / 2)


def test_a_trace_or_a_history_must_be_given() -> None:
    result = CliRunner().invoke(simulate, ["--machine", "2x2"])
    assert result.exit_code == 2
    assert "either a TRACE or --from-history" in result.stderr


def test_logs_of_other_machines_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "wild.swf"
    text = (
        "Version: 2\n"
        "Computer: Großrechner\n"
        "; Note: é\n"
        "1 0 -1 100.00 4.00 -1 -1 12.00 -1 -1 1 3 -1 -1 -1 -1 -1 -1 ; Größe\n"
        "2 10.50 -1 50 12 -1 -1 -1 -1 -1 1 4 -1 -1 -1 -1 -1 -1\n"
        "3 15 -1 -1.00 12 -1 -1 -1 -1 -1 0 4 -1 -1 -1 -1 -1 -1\n"
    )
    path.write_bytes(text.encode("latin-1"))
    told = figures(path, "--machine", "2x2", "--cool-down", 0)
    assert (told["jobs"], told["max_wait_s"], told["makespan_s"]) == (2, 89.5, 150.0)
