"""The product's own version; the protocol's `version` command answers something else (docs/reference/protocol.md)."""

__version__ = "8.0.0.dev0"
