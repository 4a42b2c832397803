"""What the doors have in common: nothing leaves before its commit."""
