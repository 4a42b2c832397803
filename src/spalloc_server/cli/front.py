"""`spalloc_web` by `python -m spalloc_server.cli.front`."""

from spalloc_server.cli.start import web

__all__: list[str] = []

if __name__ == "__main__":
    web()
