"""What clients do in a simulation: recorded traces and generators, open or closed loop."""
