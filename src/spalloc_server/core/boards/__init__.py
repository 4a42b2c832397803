"""Which boards may be used, and their power."""
