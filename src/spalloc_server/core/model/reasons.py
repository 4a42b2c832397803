"""How the reasons begin of jobs that hardware or the server has failed, so that reports can tell them from others."""

from __future__ import annotations

from typing import Final

__all__ = ["DEFECT", "FAILURES", "NOT_CONFIGURED", "NOT_STORED", "NOWHERE"]

NOT_CONFIGURED: Final = "Machine configuration failed"
"""The boards of a job that was ready could not be switched."""

NOWHERE: Final = "Boards failed in each of"
"""Boards failed wherever the job was placed."""

DEFECT: Final = "Cancelled: internal error of the server"
"""A defect of the server concerned the job."""

NOT_STORED: Final = "The server could not store this job"

FAILURES: Final = (NOT_CONFIGURED, NOWHERE, DEFECT, NOT_STORED)
"""All of these. What history says of jobs that have ended is compared with them, so they stay as they are."""
