"""Where a job fits."""
