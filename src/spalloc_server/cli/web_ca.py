"""`spalloc-admin web-ca`: which certificate authority clients of a server have to trust, and how published ones do."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from spalloc_server.cli.process import PATH, one_line_errors, say
from spalloc_server.cli.running_server import OperatorError, is_there
from spalloc_server.cli.servers import telling_which
from spalloc_server.cli.stopped_server import find_state
from spalloc_server.frontends.front_lock import CA_FILE, front_folder, trusting

__all__ = ["web_ca"]


@click.command("web-ca")
@click.option("--state", type=PATH, help="The server's state file; else SPALLOC_STATE names it.")
@click.option("--config", type=PATH, help="The server's config file, if its state is kept beside it.")
@click.option("--json", "as_json", is_flag=True, help="The answer as JSON, for programs.")
def web_ca(state: Path | None, config: Path | None, *, as_json: bool) -> None:
    """The certificate authority that clients of a server's HTTP have to trust.

    There is one where [web] names no certificate. Copy the file to the clients' computers, and have published clients
    trust it by these environment variables.
    """
    with one_line_errors("spalloc-admin"), telling_which(state, config):
        _, path, _ = find_state(state, config)
        folder = front_folder(path)
        if not is_there(folder / CA_FILE):
            raise OperatorError(
                f"there is no {folder / CA_FILE}: it is made when the server first serves HTTP, unless [web] names a"
                " certificate, which clients trust or not as any other"
            )
        variables = trusting(folder)
        if as_json:
            print(json.dumps({"file": str(folder / CA_FILE), "variables": variables}, indent=2))
        else:
            for name, value in variables.items():
                say(f"export {name}={shlex.quote(value)}", wrap=False)
