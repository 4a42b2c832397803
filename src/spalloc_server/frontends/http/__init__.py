"""The HTTP door: a front process of its own, which speaks to the server over its local API socket.

It needs the extra `web`. Its modules import plain structs, the wire of the local API and the SCP client, and nothing
else of the server.
"""
