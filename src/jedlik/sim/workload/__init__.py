"""The workloads of simulations: recorded traces and generators, open or closed loop."""
