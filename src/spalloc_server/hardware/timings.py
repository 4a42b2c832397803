"""How patient the hardware shell is with BMPs, FPGAs and boards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from spalloc_server.config.options import Hardware

__all__ = ["Timings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Every wait and budget of the hardware shell; the defaults suit real hardware. `_s` is seconds."""

    @classmethod
    def of(cls, options: Hardware) -> Self:
        """The defaults, but for what an operator has chosen."""
        return cls(
            stagger_ms=options.stagger_ms,
            pace_s=options.pace_seconds,
            power_on_tries=options.power_on_tries,
            verify_s=options.verify_seconds,
        )

    open_s: float = 5.0
    """For finding a BMP's address and opening its socket."""
    reply_s: float = 0.5
    """From sending a command to sending it again."""
    tries: int = 16
    """Times that a command is sent before the BMP counts as silent."""
    refusal_pause_s: float = 0.1
    """Before a command that was refused for the moment is sent again."""
    refusal_tries: int = 10
    """Times that a command may be refused for the moment."""
    pace_s: float = 0.0
    """Least time from the end of one command to the start of the next."""
    resent_pace_s: float = 0.005
    """The same, after a command that was sent more than once."""
    fresh_s: float = 1.0
    """A BMP that has sent something in this time is not checked before a power-off."""
    consider_s: float = 0.02
    """Pause before a power-on touches boards, so that a job that is ended at once leaves them alone."""
    power_reply_s: float = 10.0
    """From a power command to taking it, or its answer, for lost. Longer than boards take to come up."""
    power_losses: int = 12
    """Power commands lost in a row before a BMP that answers all else counts as having a power fault."""
    power_on_tries: int = 3
    """Power-ons of a board, answered, before it counts as faulty."""
    stagger_ms: int = 0
    """Each board delays its power-on by this times its number."""
    poll_s: float = 0.1
    """Between looks at FPGAs that are coming up."""
    verify_s: float = 10.0
    """From power-on to all FPGAs being right."""
    settle_s: float = 5.0
    """After power-on, where firmware is too old for the FPGAs to be read."""
    link_tries: int = 3
    """Times that a link's register is written before the board counts as faulty."""
    probe_first_s: float = 1.0
    """From a BMP falling silent, or a power fault, to the first probe; doubles with each."""
    probe_longest_s: float = 30.0
    """The longest time between two probes."""
    heartbeat_s: float = 60.0
    """How often a BMP that is watched and idle is checked."""
