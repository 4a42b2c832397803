# mypy: ignore-errors
"""Run by sPyNNaker's own Python: noise, plastic synapses, connections read back, live output, a reset, two runs.

Prints, as JSON, what came of it.
"""

import json
import sys

import numpy as np
import pyNN.spiNNaker as sim  # noqa: N813

NEURONS = 700
STEPS = 64
"""Weights are exact multiples of 1/64, so nothing is rounded on the way."""

called = []
live = sim.external_devices.SpynnakerLiveSpikesConnection(receive_labels=["cells"], local_port=None)
live.add_init_callback("cells", lambda label, *_: called.append(["init", label]))
live.add_start_resume_callback("cells", lambda label, *_: called.append(["start", label]))

sim.setup(timestep=1.0, n_boards_required=3)
sim.set_number_of_neurons_per_core(sim.IF_curr_exp, 50)
cells = sim.Population(NEURONS, sim.IF_curr_exp(), label="cells")
noise = sim.Population(NEURONS, sim.SpikeSourcePoisson(rate=50), label="noise")
array = sim.Population(100, sim.SpikeSourceArray([[step % 20] for step in range(100)]), label="array")
sim.Projection(noise, cells, sim.FixedProbabilityConnector(0.05), sim.StaticSynapse(weight=1.0, delay=2.0))
plastic = sim.STDPMechanism(
    sim.SpikePairRule(tau_plus=20.0, tau_minus=20.0, A_plus=0.01, A_minus=0.01),
    sim.AdditiveWeightDependence(w_min=0, w_max=5),
    weight=0.5,
    delay=1.0,
)
sim.Projection(cells, cells, sim.FixedProbabilityConnector(0.02), plastic)
chance = np.random.default_rng(7)
pairs = [
    (i, int(j), int(chance.integers(1, 2 * STEPS)) / STEPS, float(chance.integers(1, 10)))
    for i in range(100)
    for j in chance.choice(NEURONS, 30, replace=False)
]
listed = sim.Projection(array, cells, sim.FromListConnector(pairs, column_names=["weight", "delay"]))
cells.record(["spikes", "v"])
sim.external_devices.activate_live_output_for(cells, database_notify_port_num=live.local_port)


def read_back():
    found = [(int(i), int(j), float(w), float(d)) for i, j, w, d in listed.get(["weight", "delay"], "list")]
    return sorted(found) == sorted(pairs)


sim.run(50)
first = read_back()
sim.reset()
sim.run(20)
result = {
    "read back": [first, read_back()],
    "segments": len(cells.get_data("spikes").segments),
    "chips": sim.get_machine().n_chips if hasattr(sim, "get_machine") else None,
    "called": sorted(map(list, set(map(tuple, called)))),
}
sim.end()
live.close()
sys.stdout.write("RESULT " + json.dumps(result) + "\n")
