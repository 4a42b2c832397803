"""A small network of noisy neurons: sPyNNaker gets boards from the server, loads and runs it, and gives them back.

With `make demo` running, and spynnaker.cfg from beside this file copied to ~/.spynnaker.cfg:

    pip install sPyNNaker
    python examples/pynn/noise.py

Simulated boards compute no spikes, so what was recorded is empty. On hardware the same script shows spikes.
"""

import pyNN.spiNNaker as sim

sim.setup(timestep=1.0)
noise = sim.Population(100, sim.SpikeSourcePoisson(rate=20.0), label="noise")
cells = sim.Population(100, sim.IF_curr_exp(tau_m=20.0), label="cells")
weights = [(i, (i + 1) % 100, 0.5, 2.0) for i in range(100)]
sim.Projection(noise, cells, sim.OneToOneConnector(), sim.StaticSynapse(weight=5.0, delay=1.0))
ring = sim.Projection(cells, cells, sim.FromListConnector(weights))
cells.record(["spikes", "v"])

sim.run(100)

spikes = cells.get_data("spikes").segments[0].spiketrains
print(f"{sum(len(train) for train in spikes)} spikes of {len(spikes)} neurons")
print(f"{len(ring.get(['weight', 'delay'], 'list'))} synapses of the ring, as they were loaded")
sim.end()
