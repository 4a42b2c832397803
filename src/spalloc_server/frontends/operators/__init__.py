"""What operators tell a running server, over a local socket beside its state."""
