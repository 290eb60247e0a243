"""Profiling: measures the step times of an engine here, or of an endpoint elsewhere (`jedlik profile`)."""
