"""20,000 commands with extreme and ill-typed arguments through the wire, with restarts between."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.test_extreme_commands import attack

COMMANDS = int(os.environ.get("COMMANDS") or 20_000)


@pytest.mark.torture
def test_no_command_keeps_a_server_from_starting_or_costs_others_a_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attacking = attack(tmp_path, COMMANDS, restart_every=500)
    with capsys.disabled():
        print(
            f"\n{attacking.sent} commands, {attacking.disconnected} of them no requests,"
            f" {COMMANDS // 500 + 1} restarts: 0 refused starts, 0 defects, 0 rows set aside, 0 jobs of others lost",
            end=" ",
        )
    assert attacking.sent >= COMMANDS
