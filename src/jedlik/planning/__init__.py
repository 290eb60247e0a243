"""F2: how many workers of which role there should be: forecast, requirement, decision; planners compared."""
