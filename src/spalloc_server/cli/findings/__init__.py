"""What `spalloc-admin doctor` looks at: each function finds, and changes nothing."""
