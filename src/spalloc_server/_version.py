"""The product's own version; the protocol's `version` command answers something else (docs/reference/protocol.md)."""

__version__ = "1!8.0.0"
"""With the epoch of the published versions, the last of which is 1!7.0.0: without it, every installer takes this for an
older one."""
