"""The server by `python -m spalloc_server`, and, as it was published, by `python -m spalloc_server.server`."""

from spalloc_server.cli.start import serve

__all__: list[str] = []

if __name__ == "__main__":
    serve()
