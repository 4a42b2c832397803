"""The disk: a journal of the core's rows, so that a restart goes on where the last server stopped."""
