"""Sizing: which fleet serves a workload, found by simulating fleets (`jedlik simulate`, `jedlik plan --trace`)."""
