"""The pure heart of the server: jobs, queue, placement, leases and cool-downs.

Nothing in here does I/O or reads a clock. Commands and the time go in; the state changes; what the world must do
comes out as data (`effects`). The same code runs the server, years of virtual load, and the property tests.
"""
