"""F1: performance models: how long a step takes, learnt or from a profile. Pure arithmetic."""
