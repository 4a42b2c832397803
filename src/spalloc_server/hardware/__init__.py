"""The hardware shell: BMPs, frames and the SCP packets between."""
