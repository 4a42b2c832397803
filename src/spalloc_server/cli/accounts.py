"""`spalloc-admin user` and `token`: who may use a running server by HTTP.

Theory of operation. As in `operators`, each command is one request and one reply. A password is never an argument,
which other users of the computer could see: it is asked for without echo, read from standard input where that is no
terminal, or made up.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from spalloc_server.application import account_commands as commands
from spalloc_server.application.caller import ROLES
from spalloc_server.cli.process import say
from spalloc_server.cli.running_server import OperatorError, RunningServer
from spalloc_server.cli.tables import ago, clock, show
from spalloc_server.cli.which_server import of_a_running_server, of_a_server

__all__ = ["token", "user"]

_role = click.option("--role", type=click.Choice(list(ROLES)), help="What it may do.")
_generate = click.option("--generate", is_flag=True, help="Make up a password, and tell it.")


@click.group()
def user() -> None:
    """Accounts: who may log in, and as what."""


@user.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(list(ROLES)), default="user", show_default=True, help="What it may do.")
@_generate
@click.option("--no-password", is_flag=True, help="For programs that use a token.")
@of_a_running_server
def add_user(server: RunningServer, name: str, role: str, generate: bool, no_password: bool) -> None:
    """Make an account. Its password is asked for, or read from standard input."""
    if generate and no_password:
        raise OperatorError("--generate makes a password, and --no-password says that there is none: give one of them")
    with _password(generate) if not no_password else _none() as password:
        request = commands.CreateAccount(name=name, role=role, password=password)
        _show_users([server.ask(request, commands.AccountView)])


@user.command("list")
@of_a_server
def list_users(server: RunningServer) -> None:
    """All accounts."""
    _show_users(server.ask(commands.ListAccounts(), list[commands.AccountView]))


@user.command("set")
@click.argument("name")
@_role
@click.option("--rename", metavar="NEW", help="Its name from now on; jobs keep the old one.")
@click.option("--enable/--disable", default=None, help="Whether it may be used; --disable ends its sessions.")
@click.option("--unlock", is_flag=True, help="Forget wrong passwords.")
@of_a_running_server
def set_user(
    server: RunningServer, name: str, role: str | None, rename: str | None, enable: bool | None, unlock: bool
) -> None:
    """Change an account."""
    request = commands.ChangeAccount(name=name, new_name=rename, role=role, enabled=enable, unlock=unlock)
    _show_users([server.ask(request, commands.AccountView)])


@user.command("password")
@click.argument("name")
@_generate
@of_a_running_server
def set_password(server: RunningServer, name: str, generate: bool) -> None:
    """Give an account another password, which ends its sessions. It is asked for, or read from standard input."""
    with _password(generate) as password:
        server.ask(commands.ChangeAccount(name=name, password=password), commands.AccountView)
    say(f"{name} has another password, and must log in again")


@user.command("remove")
@click.argument("name")
@of_a_running_server
def remove_user(server: RunningServer, name: str) -> None:
    """Delete an account, with its sessions and tokens; its jobs go on."""
    server.ask(commands.DeleteAccount(name=name), type(None))
    say(f"account {name} is deleted")


@click.group()
def token() -> None:
    """Tokens: what programs show in place of a password."""


@token.command("create")
@click.argument("name")
@_role
@click.option(
    "--days", type=click.FloatRange(0, 3660, min_open=True), default=365.0, show_default=True, help="Until it ends."
)
@click.option("--note", help="What it is for.")
@of_a_running_server
def create_token(server: RunningServer, name: str, role: str | None, days: float, note: str | None) -> None:
    """Make a token of the account NAME, which may do what --role says, and no more than the account."""
    new = server.ask(commands.CreateToken(name=name, role=role, days=days, note=note or ""), commands.NewToken)
    _show_tokens([new.view])
    say("the token, which is told only this once:")
    say(new.secret, wrap=False)


@token.command("list")
@click.argument("name", required=False)
@of_a_server
def list_tokens(server: RunningServer, name: str | None) -> None:
    """All tokens, or those of the account NAME, without their secrets."""
    _show_tokens(server.ask(commands.ListTokens(name=name), list[commands.TokenView]))


@token.command("revoke")
@click.argument("token_id", metavar="ID")
@of_a_running_server
def revoke_token(server: RunningServer, token_id: str) -> None:
    """Have a token work no longer."""
    view = server.ask(commands.RevokeToken(id=token_id), commands.TokenView)
    say(f"token {view.id} of {view.account} works no longer")


@contextmanager
def _password(generate: bool) -> Iterator[str]:
    """The new password of an account; where it is made up, it is told once the command is done."""
    if generate:
        password = secrets.token_urlsafe(12)
        try:
            yield password
        except click.exceptions.Exit:  # as with --json, whose answer does not have it
            say(f"password: {password}", wrap=False, file=sys.stderr)
            raise
        say(f"password: {password}", wrap=False)
        return
    try:
        if sys.stdin.isatty():
            password = click.prompt("Password", hide_input=True, confirmation_prompt="Once more")
            password.encode()
        else:
            password = sys.stdin.buffer.readline().decode().rstrip("\r\n")
    except UnicodeError:
        raise OperatorError("the password is no text in UTF-8") from None
    if not password:
        raise OperatorError("the password is empty: type one, or give it as a line of standard input, or --generate")
    yield password


@contextmanager
def _none() -> Iterator[None]:
    yield None


def _show_users(views: list[commands.AccountView]) -> None:
    show(
        ("account", "role", "password", "remarks", "last log-in", "last wrong password"),
        (
            (
                view.name,
                view.role,
                "yes" if view.has_password else "no",
                ", ".join(word for word, said in (("disabled", not view.enabled), ("locked", view.locked)) if said),
                _past(view.last_log_in),
                _past(view.last_failure),
            )
            for view in views
        ),
        wrap=("remarks",),
        drop=("last wrong password",),
    )


def _show_tokens(views: list[commands.TokenView]) -> None:
    show(
        ("token", "account", "role", "note", "made", "ends", "last used"),
        (
            (
                view.id,
                view.account,
                view.role,
                view.note,
                _past(view.created_at),
                clock(view.expires_at),
                _past(view.last_used_at),
            )
            for view in views
        ),
        wrap=("note",),
        drop=("made", "last used"),
    )


def _past(when: float | None) -> str | None:
    return None if when is None else f"{ago(when)} ago"
