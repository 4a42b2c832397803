"""A program that shares out boards with the server's core, and switches them by itself.

The boards here are lamps: they go on and off in a set. Time is a number, which this program moves on. Run
it with `python examples/embedded_controller.py`.
"""

from spalloc_server.controller import BoardFailure, Controller, JobState, Outcome, Switch
from spalloc_server.machine import Machine


class Clock:
    """A time of one's own, in seconds; a program in earnest leaves it out, and calls `tick` every few seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Lamps:
    """Hardware of one's own: whatever can be switched, named as the core names it (host of the BMP, board number)."""

    def __init__(self, broken: set[tuple[str, int]]) -> None:
        self.on: set[tuple[str, int]] = set()
        self.broken = broken

    def switch(self, switch: Switch) -> Outcome:
        """Do what the core asks for, and say how it went."""
        lamps = {(frame.bmp, board) for frame in switch.frames for board in frame.boards}
        if not switch.on:
            self.on -= lamps
            return Outcome(switch.operation)
        self.on |= lamps - self.broken
        failures = [BoardFailure(bmp, board, "the bulb is broken") for bmp, board in sorted(lamps & self.broken)]
        return Outcome(switch.operation, tuple(failures))


def work(controller: Controller, lamps: Lamps) -> None:
    """Let the hardware do what there is to do, until there is no more."""
    while switches := controller.take_switches():
        for switch in switches:
            controller.switched(lamps.switch(switch))


def show(controller: Controller, job_id: int) -> None:
    """Tell how a job is, and where."""
    info = controller.get_job_machine_info(job_id)
    print(f"job {job_id} is {JobState(controller.get_job_state(job_id).state).name} and has {info.connections}")


def main() -> None:
    """Jobs on a machine of one triad, one of whose boards is broken."""
    boards = [(0, 0, z) for z in range(3)]
    machine = Machine(
        "lamps",
        board_locations={board: (0, 0, number) for number, board in enumerate(boards)},
        bmp_ips={(0, 0): "the-frame"},
        spinnaker_ips={board: f"lamp-{number}" for number, board in enumerate(boards)},
    )
    clock = Clock()
    controller = Controller(seconds_before_free=30, clock=clock)
    controller.machines = {machine.name: machine}
    lamps = Lamps(broken={("the-frame", 0)})

    one = controller.create_job(owner="ann", keepalive=None)
    two = controller.create_job(owner="bob", keepalive=None)
    work(controller, lamps)
    show(controller, one)
    show(controller, two)

    controller.destroy_job(one)
    three = controller.create_job(owner="cas", keepalive=None)
    work(controller, lamps)
    show(controller, three)  # its board is off, and must rest

    wake_at = controller.wake_at()
    assert wake_at is not None
    clock.now = wake_at
    controller.tick()
    work(controller, lamps)
    show(controller, three)

    controller.destroy_job(two)
    controller.destroy_job(three)
    work(controller, lamps)
    print(f"{len(lamps.on)} lamps are on")
    controller.check()


if __name__ == "__main__":
    main()
