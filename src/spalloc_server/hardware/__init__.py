"""The hardware shell: BMPs, frames and the SCP packets between; and a simulator of them."""
