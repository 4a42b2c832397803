"""Pictures of machines: pure functions from machines and their boards' conditions to SVG, or to text in colours."""
