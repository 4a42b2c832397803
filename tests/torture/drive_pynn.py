# mypy: ignore-errors
"""Run by sPyNNaker's own Python: load a network, run it and read it back again and again until told to stop.

argv: a file that says by being there that this is to stop. Prints as `drive_boards` does.
"""

import json
import sys
from pathlib import Path

import pyNN.spiNNaker as sim  # noqa: N813

(stop,) = sys.argv[1:]
pairs = [(i, (i + 1) % 100, 0.5, 2.0) for i in range(100)]
sim.setup(timestep=1.0)
noise = sim.Population(100, sim.SpikeSourcePoisson(rate=20.0), label="noise")
cells = sim.Population(100, sim.IF_curr_exp(tau_m=20.0), label="cells")
sim.Projection(noise, cells, sim.OneToOneConnector(), sim.StaticSynapse(weight=5.0, delay=1.0))
ring = sim.Projection(cells, cells, sim.FromListConnector(pairs))
cells.record(["spikes", "v"])
wrong = []
rounds = 0
while not Path(stop).exists():
    rounds += 1
    sim.run(20)
    found = sorted((int(i), int(j), float(w), float(d)) for i, j, w, d in ring.get(["weight", "delay"], "list"))
    if found != pairs:
        wrong.append(rounds)
    print("ROUND", rounds, flush=True)
segments = len(cells.get_data("v").segments)
sim.end()
print("RESULT", json.dumps({"wrong": wrong, "segments": segments}), flush=True)
