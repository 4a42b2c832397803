"""The OpenAPI document, and a page to try it.

Theory of operation. The framework knows the paths and their parameters. What it says of structs is not the whole
truth (it leaves out constraints, and that unknown fields are refused), so msgspec says that: the same code that checks
bodies. What each operation may answer besides success is said with its handler, by the constants here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
from litestar import Litestar
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import OpenAPIFormat, OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema

from spalloc_server.frontends.http.answers import Answer
from spalloc_server.frontends.http.rest import messages

__all__ = [
    "ABSENT",
    "AT_BOARDS",
    "BODY",
    "NOTHING",
    "REFUSED",
    "BytesBody",
    "DefinitionsBody",
    "TextBody",
    "answers_by_path",
]


def _text(description: str) -> ResponseSpec:
    return ResponseSpec(str, generate_examples=False, description=description, media_type="text/plain")


REFUSED = {
    400: _text("The request makes no sense; the text says why"),
    401: _text("Log in first"),
    403: _text("The caller may not do this"),
    429: _text("Too many requests; ask again later"),
    503: _text("The server is away, or cannot store anything at present; ask again later"),
}
"""What any operation may answer."""

ABSENT = {404: _text("There is no such thing, or nothing that the caller may know of")}
BODY = {
    413: _text("The body is too long"),
    415: _text("The body is of another type, or encoded"),
}
AT_BOARDS = {
    500: _text("The boards did not do it; the text says why"),
}
NOTHING = {204: ResponseSpec(None, description="There is nothing to tell, since the job has no boards")}


def _body(media: str, kind: Schema) -> RequestBody:
    return RequestBody(content={media: OpenAPIMediaType(schema=kind)}, required=True)


@dataclass
class TextBody(Operation):
    """An operation whose body is text."""

    def __post_init__(self) -> None:
        self.request_body = _body("text/plain", Schema(type=OpenAPIType.STRING))


@dataclass
class DefinitionsBody(Operation):
    """An operation whose body is machine definitions."""

    def __post_init__(self) -> None:
        self.request_body = _body("application/json", Schema(type=OpenAPIType.OBJECT))


@dataclass
class BytesBody(Operation):
    """An operation whose body is bytes."""

    def __post_init__(self) -> None:
        self.request_body = _body(
            "application/octet-stream", Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
        )


NO_BODY: Final[dict[str, Any]] = {"application/json": {"schema": {}}}
"""What the framework says of an answer of which it knows nothing: it has no body."""


def _document(app: Litestar, version: str) -> dict[str, Any]:
    """Return the OpenAPI document."""
    document = app.openapi_schema.to_schema()
    kinds = [kind for name in messages.__all__ if isinstance(kind := getattr(messages, name), msgspec.StructMeta)]
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    for methods in document["paths"].values():
        for operation in methods.values():
            for answer in operation["responses"].values():
                if answer.get("content") == NO_BODY:
                    del answer["content"]
    document["info"] = {"title": "spalloc_server", "version": version}
    document["servers"] = [{"url": "/spalloc/srv/spalloc"}]
    document["components"] = {
        "schemas": schemas,
        "securitySchemes": {
            "session": {"type": "apiKey", "in": "cookie", "name": "JSESSIONID"},
            "basic": {"type": "http", "scheme": "basic"},
            "token": {"type": "http", "scheme": "bearer"},
        },
    }
    document["security"] = [{"session": []}, {"basic": []}, {"token": []}]
    return document


_POLICY = (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")


@cache
def _file(name: str) -> bytes:
    return Path(__file__).with_name(name).read_bytes()


def answers_by_path(app: Litestar, version: str) -> dict[str, Answer]:
    """Return what is told to everybody, without a log-in: the document, and the page that lets one try it."""
    document = msgspec.json.encode(_document(app, version))
    return {
        "/spalloc/srv/openapi.json": Answer(
            status=200, body=document, headers=((b"content-type", b"application/json"),)
        ),
        **{
            f"/spalloc/srv/{name}": Answer(
                status=200, body=_file(name), headers=((b"content-type", b"%s;charset=UTF-8" % kind), _POLICY)
            )
            for name, kind in (("try.html", b"text/html"), ("try.js", b"text/javascript"), ("try.css", b"text/css"))
        },
    }
