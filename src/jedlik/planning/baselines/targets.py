"""The concurrency that HPA and KPA aim at, per worker: as many requests as one worker serves within the SLOs.

Who runs these autoscalers sets the target by hand, after measuring. Here it is what the step model says at the lengths
seen so far: the largest batch that keeps the ITL (and, where prompts are prefilled beside it, the TTFT); for workers
that only prefill: the most prompts of which the last still keeps the TTFT.
"""

from jedlik.core.config import Role
from jedlik.planning.baselines.engine import aggregated_capacity, decode_capacity, engine_of, most_within
from jedlik.planning.baselines.fleet import Lengths, serving
from jedlik.planning.policy import Situation, Terms


def target(role: Role, situation: Situation, terms: Terms, lengths: Lengths) -> int | None:
    """Requests at one worker, at least 1; None: not known yet."""
    asked = lengths.asked
    engine = engine_of(terms, serving(situation, role))
    if asked is None or engine is None:
        return None
    if role == "prefill":
        return most_within(situation.slo_ttft_s, engine, asked)
    if role == "decode":
        return decode_capacity(engine, asked, situation.slo_itl_s).batch
    found = aggregated_capacity(engine, asked, situation.slo_ttft_s, situation.slo_itl_s)
    return found.batch if found.met else 1
