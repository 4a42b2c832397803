"""Accounts, their tokens and sessions, and how often passwords may be tried: pure rules."""
