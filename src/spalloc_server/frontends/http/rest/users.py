"""`admin/users`: the accounts, in the Java server's words.

Theory of operation. A user's address has the number of the account, which is never used again. Roles are called trust
levels here. One of ours, `operator`, is shown as ADMIN, and stays what it is where ADMIN is given again. What would
lock the caller's own account out is refused.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from litestar import Response, Router, delete, get, post, put
from litestar.params import JSONBody, PathParameter

from spalloc_server.application.account_commands import (
    AccountView,
    ChangeAccount,
    CreateAccount,
    DeleteAccount,
    ListAccounts,
)
from spalloc_server.application.caller import Permission
from spalloc_server.frontends.http.rest.messages import Trust, UserAnswer, UserBody
from spalloc_server.frontends.http.rest.openapi import ABSENT, BODY, REFUSED
from spalloc_server.frontends.http.rest.requests import Refusal, RestRequest, instant

__all__ = ["USERS"]

UserId: TypeAlias = Annotated[str, PathParameter(pattern=r"^[0-9]{1,15}$", description="Number of the account")]

_TRUST: dict[str, Trust] = {
    "basic": "BASIC",
    "reader": "READER",
    "user": "USER",
    "nmpi-exec": "NMPI_EXEC",
    "operator": "ADMIN",
    "admin": "ADMIN",
}
BLANK = "must not be blank"
_ROLES = {trust: role for role, trust in _TRUST.items()}


@get("/", responses=REFUSED, summary="Users, by name")
async def list_users(request: RestRequest) -> dict[str, str]:
    """List users."""
    views = await request.ask(ListAccounts(), list[AccountView])
    return {view.name: request.link("admin", "users", view.number) for view in sorted(views, key=lambda v: v.name)}


@post("/", responses=REFUSED | BODY, status_code=201, summary="Create a user")
async def create_user(request: RestRequest, data: JSONBody[UserBody]) -> Response[UserAnswer]:
    """Create a user. One without a password can only use tokens."""
    _check(data)
    if (name := _name(data)) is None:
        raise Refusal(400, BLANK)
    if data.trust_level is None:
        raise Refusal(400, "a trust level must be given")
    role, enabled = _ROLES[data.trust_level], data.enabled is not False
    command = CreateAccount(name=name, role=role, password=data.password, enabled=enabled)
    view = await request.ask(command, AccountView)
    return Response(_answer(view), headers={"Location": request.link("admin", "users", view.number)})


@get("/{user_id:str}", responses=REFUSED | ABSENT, summary="A user")
async def show_user(request: RestRequest, user_id: UserId) -> UserAnswer:
    """Describe a user."""
    return _answer(await _user(request, user_id))


@put("/{user_id:str}", responses=REFUSED | ABSENT | BODY, summary="Change a user")
async def change_user(request: RestRequest, user_id: UserId, data: JSONBody[UserBody]) -> UserAnswer:
    """Change what is given of a user."""
    _check(data)
    view = await _user(request, user_id)
    trust = data.trust_level or _TRUST[view.role]
    role = None if trust == _TRUST[view.role] else _ROLES[trust]
    if view.name == request.caller.name and (role is not None or data.enabled is False):
        raise Refusal(400, "nobody can disable the own account, or change its trust level")
    name = _name(data)
    command = ChangeAccount(
        name=view.name,
        new_name=None if name == view.name else name,
        role=role,
        password=data.password,
        enabled=data.enabled,
        unlock=data.locked is False,
    )
    return _answer(await request.ask(command, AccountView))


@delete("/{user_id:str}", responses=REFUSED | ABSENT, status_code=200, media_type="text/plain", summary="Delete a user")
async def delete_user(request: RestRequest, user_id: UserId) -> str:
    """Delete a user; jobs of the user go on."""
    view = await _user(request, user_id)
    if view.name == request.caller.name:
        raise Refusal(400, "nobody can delete the own account")
    await request.ask(DeleteAccount(name=view.name), type(None))
    return f"deleted user {view.name}"


async def _user(request: RestRequest, user_id: str) -> AccountView:
    views = await request.ask(ListAccounts(), list[AccountView])
    for view in views:
        if view.number == int(user_id):
            return view
    raise Refusal(404, "no such user")


def _name(body: UserBody) -> str | None:
    """Return the name that a body gives a user, if any."""
    name = None if body.user_name is None else body.user_name.strip()
    if name == "":
        raise Refusal(400, BLANK)
    return name


def _check(body: UserBody) -> None:
    if body.internal is False or body.open_id_subject:
        raise Refusal(400, "there are only internal users, who log in by passwords or tokens of this server")
    if body.user_id is not None:
        raise Refusal(400, "user-id is chosen by the server")
    if body.locked:
        raise Refusal(400, "users are locked by wrong passwords only; set enabled to false instead")


def _answer(view: AccountView) -> UserAnswer:
    return UserAnswer(
        user_name=view.name,
        has_password=view.has_password,
        enabled=view.enabled,
        locked=view.locked,
        trust_level=_TRUST[view.role],
        last_successful_login=instant(view.last_log_in),
        last_failed_login=instant(view.last_failure),
        open_id_subject=None,
        groups={},
        internal=True,
    )


USERS = Router(
    "/admin/users",
    route_handlers=[list_users, create_user, show_user, change_user, delete_user],
    opt={"permission": Permission.STOP, "absent": "no such user"},
    tags=["admin"],
)
"""What administrators do with accounts."""
