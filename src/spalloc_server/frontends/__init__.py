"""The doors: each turns what its clients send into commands."""
