"""The nouns of the core: plain structs, open to all."""

from __future__ import annotations

from spalloc_server.core.model.allocation import Allocation
from spalloc_server.core.model.effects import Effects, JobEvent
from spalloc_server.core.model.job_state import STATES, JobState
from spalloc_server.core.model.power import NO_JOB, BoardFailure, FrameWork, Outcome, Switch
from spalloc_server.core.model.replies import JobDescription, JobMachineInfo, JobStatus, MachineDescription, WhereIs
from spalloc_server.core.model.request import MAX_TEXT, Kind, Request, shown
from spalloc_server.core.model.rows import (
    LATEST,
    MISSING,
    SERVER,
    BoardReport,
    BoardRow,
    BoardTimeRow,
    Changes,
    Holding,
    JobRow,
    Note,
    ReleaseRow,
    ResultRow,
    SessionRow,
    Snapshot,
    TokenRow,
    UnreadableRow,
    UserRow,
)
from spalloc_server.core.model.views import PASSED, BoardView, FrameView, JobView, MachineView, SetAsideView

__all__ = [
    "LATEST",
    "MAX_TEXT",
    "MISSING",
    "NO_JOB",
    "PASSED",
    "SERVER",
    "STATES",
    "Allocation",
    "BoardFailure",
    "BoardReport",
    "BoardRow",
    "BoardTimeRow",
    "BoardView",
    "Changes",
    "Effects",
    "FrameView",
    "FrameWork",
    "Holding",
    "JobDescription",
    "JobEvent",
    "JobMachineInfo",
    "JobRow",
    "JobState",
    "JobStatus",
    "JobView",
    "Kind",
    "MachineDescription",
    "MachineView",
    "Note",
    "Outcome",
    "ReleaseRow",
    "Request",
    "ResultRow",
    "SessionRow",
    "SetAsideView",
    "Snapshot",
    "Switch",
    "TokenRow",
    "UnreadableRow",
    "UserRow",
    "WhereIs",
    "shown",
]
