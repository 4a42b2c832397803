"""The command lines: the server itself, and `spalloc-admin` for all around it."""
