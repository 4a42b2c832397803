"""`spalloc_web` and `spalloc-admin web-ca`, as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from spalloc_server.cli.web import main
from spalloc_server.cli.web_ca import web_ca
from spalloc_server.config import extras
from spalloc_server.frontends.front_lock import front_folder
from spalloc_server.frontends.http.certificates import own_certificate
from tests.cli.commands import one_line_of


def test_the_authority_is_told_as_clients_need_it(tmp_path: Path) -> None:
    state = tmp_path / "hall.db"
    own_certificate(front_folder(state), frozenset({"localhost"}))
    file = tmp_path / "hall.db.web" / "ca.pem"
    told = CliRunner().invoke(web_ca, ["--state", str(state)]).stdout
    assert told == f"export REQUESTS_CA_BUNDLE={file}\nexport WEBSOCKET_CLIENT_CA_BUNDLE={file}\n"
    told = json.loads(CliRunner().invoke(web_ca, ["--state", str(state), "--json"]).stdout)
    assert told["file"] == told["variables"]["REQUESTS_CA_BUNDLE"] == str(file)


def test_a_server_without_an_authority_is_told_so(tmp_path: Path) -> None:
    assert "it is made when the server first serves HTTP" in one_line_of(web_ca, "--state", tmp_path / "hall.db")


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    assert "pip install 'spalloc-server[web]'" in one_line_of(main, "--state", tmp_path / "hall.db")


def test_where_no_server_runs_it_wants_to_know_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "say which is meant with --state or --config" in one_line_of(main)
