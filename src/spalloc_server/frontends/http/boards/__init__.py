"""Boards of a job, reached through the front process: the WebSocket proxy, memory, fast transfers and router reset.

Hosts come from the server's answers about the job, and from nowhere else: no datagram goes anywhere but to a board of
the job that it is for.
"""
