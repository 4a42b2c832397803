"""`spalloc-admin` by `python -m spalloc_server.cli`."""

from spalloc_server.cli.start import admin

__all__: list[str] = []

if __name__ == "__main__":
    admin()
