"""The process: upgrade, handover, systemd, timers, and maintenance of the journal."""
