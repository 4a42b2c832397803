"""The line protocol (v1) of the published clients: JSON objects over TCP, one a line."""
