"""The planner's decider observes the fleet, decides its size and roles, and has workers started. Start at `node.py`."""
