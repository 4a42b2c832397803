# mypy: ignore-errors
"""Run by any sPyNNaker's own Python: one population, with all that it records."""

import pyNN.spiNNaker as sim  # noqa: N813

sim.setup(timestep=1.0)
cells = sim.Population(100, sim.IF_curr_exp(), label="cells")
cells.record(["spikes", "v"])
sim.run(50)
print("SAMPLES", cells.get_data("v").segments[0].analogsignals[0].shape)
sim.end()
