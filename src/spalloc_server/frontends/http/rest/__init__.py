"""REST, as the clients of the Java server speak it: `make_rest` makes the ASGI application.

Paths and answers are those of the Java server; where they differ, `docs/reference/rest-differences.md` says why.
"""

from spalloc_server.frontends.http.rest.app import make_rest

__all__ = ["make_rest"]
