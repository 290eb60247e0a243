"""Policies by name."""

from collections.abc import Callable
from difflib import get_close_matches

from jedlik.core.errors import ConfigError
from jedlik.routing.policies.aibrix import AIBrix
from jedlik.routing.policies.dynamo import Dynamo
from jedlik.routing.policies.jedlik import Jedlik
from jedlik.routing.policies.least_loaded import LeastLoaded
from jedlik.routing.policies.lmetric import LMetric
from jedlik.routing.policies.power_of_two import PowerOfTwo
from jedlik.routing.policies.predicted_ttft import PredictedTTFT
from jedlik.routing.policies.random_choice import RandomChoice
from jedlik.routing.policies.round_robin import RoundRobin
from jedlik.routing.policies.session import Session
from jedlik.routing.policies.sglang import SGLang
from jedlik.routing.policy import Policy

DEFAULT = "jedlik"
POLICIES: dict[str, Callable[[], Policy]] = {
    "jedlik": Jedlik,
    "round_robin": RoundRobin,
    "random": RandomChoice,
    "power_of_two": PowerOfTwo,
    "least_loaded": LeastLoaded,
    "session": Session,
    "dynamo": Dynamo,
    "sglang": SGLang,
    "aibrix": AIBrix,
    "lmetric": LMetric,
    "predicted_ttft": PredictedTTFT,
}
"""Each call makes a fresh one: policies may keep state."""


def make(name: str = DEFAULT) -> Policy:
    """The policy of this name. Raises ConfigError with the nearest one."""
    made = POLICIES.get(name)
    if made is not None:
        return made()
    near = get_close_matches(name, POLICIES, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(POLICIES)}"
    raise ConfigError(f"no routing policy is called {name!r}: {hint} (a file of your own is named as FILE.py[:NAME])")
