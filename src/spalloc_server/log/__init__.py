"""Log lines that never hold the server up; what goes wrong in the server itself."""
