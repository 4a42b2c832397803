"""A client of REST that has a session of its own, and keeps nothing from whoever looks at its answers."""

from __future__ import annotations

import http.client
import json
import re
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode, urlsplit

__all__ = ["Answer", "RestClient"]

SECONDS = 90.0
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server has sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RestClient:
    """A user's program.

    Args:
        base: such as `http://localhost:8080/spalloc`.
        user: logs in where it is given.
        password: of the user.
    """

    def __init__(self, base: str, user: str | None = None, password: str = "") -> None:
        self.base = base
        self._url = urlsplit(base)
        self._cookies: dict[str, str] = {}
        self._csrf: dict[str, str] = {}
        if user is not None:
            self._log_in(user, password)

    def _log_in(self, user: str, password: str) -> None:
        page = self.send("GET", f"{self._url.path}/system/login.html").body.decode()
        (token,) = re.findall(r'<input type="hidden" name="_csrf" value="(.*?)" />', page)
        form = urlencode({"_csrf": token, "username": user, "password": password, "submit": "submit"})
        answer = self.send("POST", f"{self._url.path}/system/perform_login", form.encode(), FORM)
        assert answer.status == 302, f"{user} cannot log in: {answer}"
        root = self.send("GET", "").json
        self._csrf = {root["csrf-header"]: root["csrf-token"]}

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        csrf: bool = True,
    ) -> Answer:
        """Send a request. Paths without a slash in front are below the root of the service."""
        if not path.startswith("/"):
            path = f"{self._url.path}/srv/spalloc/{path}"
        sent = {**(self._csrf if csrf and method not in {"GET", "HEAD"} else {}), **(headers or {})}
        if self._cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=SECONDS)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            given = [(name.lower(), value) for name, value in answer.getheaders()]
            content = answer.read()
        finally:
            connection.close()
        for name, value in given:
            if name == "set-cookie":
                self._cookies |= {key: morsel.value for key, morsel in SimpleCookie(value).items() if morsel.value}
        folded: dict[str, str] = {}
        for name, value in given:
            folded[name] = f"{folded[name]}, {value}" if name in folded else value
        return Answer(answer.status, folded, content)
