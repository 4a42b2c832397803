"""Hardware that exists only on this computer: BMPs and boards."""
