"""What stands behind every door: commands, who may give them, what is done around each, and who hears of it."""
