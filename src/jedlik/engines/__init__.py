"""F4: engines behind the step contract (core/step)."""
