"""Jobs as the world has them: the boards and links as the hardware was told, and what the users were told.

Theory of operation. `World` takes a controller's switches as a shell would, and remembers for each job which links were
stopped when its boards were last switched on. From these, and from the dead links of the machine, it makes the `Job`
that `tests.scamp_rule` judges. It asks the core for nothing but the replies that users get.
"""

from __future__ import annotations

from typing import Any

from spalloc_server.config.machine import Machine
from spalloc_server.config.options import Scheduling
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.coordinates import Board, BoardLink
from spalloc_server.core.model.power import Outcome, Switch
from tests.scamp_rule import Job, working_links

__all__ = ["World"]


class World:
    """A controller in virtual time, and hardware that does at once what it is told.

    Args:
        machine: the only machine.
        scheduling: the settings of the queue.
    """

    def __init__(self, machine: Machine, scheduling: Scheduling | None = None) -> None:
        self.machine = machine
        self.now = 1000.0
        self.scheduling = scheduling or Scheduling()
        self.controller = Controller(clock=lambda: self.now)
        self.controller.configure(Configuration([machine], seconds_before_free=0, scheduling=self.scheduling))
        self.stopped: dict[int, frozenset[BoardLink]] = {}
        """The links of each job that were stopped when its boards were last switched on."""

    def __repr__(self) -> str:
        machine, jobs = self.machine, self.controller.list_jobs()
        busy = sorted(board for job in jobs for board in job.boards or ())
        dead = f"dead boards {sorted(machine.dead_boards)}, dead links {sorted(machine.dead_links)}"
        return f"<{machine.width} x {machine.height} triads, {dead}, busy {busy}>"

    def configure(self, machine: Machine) -> None:
        """Load a changed machine, as at a reload."""
        self.machine = machine
        self.controller.configure(Configuration([machine], seconds_before_free=0, scheduling=self.scheduling))

    def create(self, *args: Any, **kwargs: Any) -> int:
        """Make a job, and switch the boards that it gets; its number."""
        job_id = self.controller.create_job(*args, **{"owner": "someone", "keepalive": None, **kwargs})
        self.switch()
        return job_id

    def destroy(self, job_id: int) -> None:
        """End a job, and switch its boards off."""
        self.controller.destroy_job(job_id)
        self.switch()

    def switch(self) -> None:
        """Do all that the hardware was told."""
        while switches := self.controller.take_switches():
            for switch in switches:
                if switch.on:
                    self.stopped[switch.job_id] = self._links(switch)
                self.controller.switched(Outcome(switch.operation))

    def _links(self, switch: Switch) -> frozenset[BoardLink]:
        frames = {bmp: frame for frame, bmp in self.machine.bmp_ips.items()}
        links = set()
        for frame in switch.frames:
            for number, link in frame.stopped:
                x, y, z = self.machine.board_at[*frames[frame.bmp], number]
                links.add((x, y, z, link))
        return frozenset(links)

    def boards(self, job_id: int) -> tuple[Board, ...]:
        """The boards that a job has; none while it waits, and after its end."""
        return tuple(self.controller.get_job_machine_info(job_id).boards or ())

    def job(self, job_id: int) -> Job | None:
        """A job that has boards, for the judge; None where it has none."""
        info = self.controller.get_job_machine_info(job_id)
        if info.boards is None:
            return None
        assert info.width is not None
        assert info.height is not None
        assert info.connections is not None
        machine, boards = self.machine, frozenset(info.boards)
        at = {host: board for board, host in machine.spinnaker_ips.items()}
        ends = working_links(machine.width, machine.height, boards, machine.dead_links, self.stopped[job_id])
        return Job(boards, ends, (info.width, info.height), {at[host]: chip for chip, host in info.connections})
