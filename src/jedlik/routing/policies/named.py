"""Routing policies by name."""

from collections.abc import Callable
from difflib import get_close_matches

from jedlik.core.errors import ConfigError
from jedlik.routing.policies import published
from jedlik.routing.policies.jedlik import Jedlik
from jedlik.routing.policy import Policy

DEFAULT = "jedlik"
POLICIES: dict[str, Callable[[], Policy]] = {
    "jedlik": Jedlik,
    "round_robin": published.RoundRobin,
    "random": published.RandomChoice,
    "power_of_two": published.PowerOfTwo,
    "least_loaded": published.LeastLoaded,
    "session": published.Session,
    "dynamo": published.DynamoCost,
    "sglang": published.SGLang,
    "aibrix": published.AIBrix,
    "lmetric": published.LMetric,
    "predicted_ttft": published.PredictedTTFT,
}
"""Each call makes a fresh policy: policies may keep state."""


def make(name: str = DEFAULT) -> Policy:
    """Return a policy of this name. Raises ConfigError with the nearest name."""
    made = POLICIES.get(name)
    if made is not None:
        return made()
    near = get_close_matches(name, POLICIES, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(POLICIES)}"
    raise ConfigError(f"no routing policy is called {name!r}: {hint} (a file of your own is named as FILE.py[:NAME])")
