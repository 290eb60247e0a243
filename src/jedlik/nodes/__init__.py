"""The deciders of gateway, worker and planner, each a pure state machine that both worlds run."""
