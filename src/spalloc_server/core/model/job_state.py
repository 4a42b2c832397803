"""The states of a job, with the numbers that the v1 protocol gives them."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["STATES", "JobState"]


class JobState(IntEnum):
    """States with the numbers that the protocol gives them."""

    unknown = 0
    queued = 1
    power = 2
    ready = 3
    destroyed = 4


STATES = tuple(JobState)
"""By number; to call an enumeration takes longer than all else that is done for a reply."""
