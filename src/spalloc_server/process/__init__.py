"""The process: upgrade, handover, systemd, time, and the care of the journal."""
