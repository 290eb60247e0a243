"""What routing tests are made of: cards, reports, fleets, asks and offers."""

from jedlik.core.ids import RequestId, WorkerId
from jedlik.core.protocol import SCHEMA_VERSION, Capabilities, Card, Layout, Load, StepCosts
from jedlik.routing.policy import Ask, Offer
from jedlik.routing.view import Fleet, WorkerView

BLOCK = 16
COSTS = StepCosts(
    base_s=0.01, prefill_token_s=0.001, prefill_pair_s=1e-6, decode_sequence_s=0.002, context_token_s=1e-6
)
IDLE = Load(
    steps=1,
    step_age_s=0.0,
    step_predicted_s=None,
    running=0,
    waiting=0,
    waiting_tokens=0,
    context_tokens=0,
    held_blocks=0,
    cached_blocks=0,
    last_submit=0,
)


def card(name: str, max_sequences: int = 8) -> Card:
    return Card(
        schema=SCHEMA_VERSION,
        worker=WorkerId(f"{name}@1"),
        name=name,
        model="m",
        revision="r1",
        layout=Layout(dtype="float32", layers=1, kv_heads=1, head_dim=8, block_size=BLOCK),
        total_blocks=101,
        max_model_len=4000,
        max_sequences=max_sequences,
        max_step_tokens=100,
        vocab_size=1000,
        eos_token_ids=(2,),
        hash_check="",
        capabilities=Capabilities(),
    )


def fleet_of(**loads: Load | None) -> Fleet:
    fleet = Fleet()
    for name, load in loads.items():
        view = fleet.add(card(name))
        if load is not None:
            view.report(load)
            fleet.rerank(view)
    fleet.check()
    return fleet


def ask(history: int = 200, output: int = 10, name: str = "r", session: str = "", turn: int = 0) -> Ask:
    return Ask(
        request_id=RequestId(name),
        choice=0,
        model="m",
        history_tokens=history,
        output_tokens=output,
        session=session,
        turn=turn,
    )


def load(
    requests: int = 0, queued: int = 0, context: int = 0, cache_blocks: int = 0, costs: StepCosts | None = COSTS
) -> Load:
    """Of a worker with so many requests in its batch, A tokens queued and S in decode."""
    return Load(
        steps=1,
        step_age_s=0.0,
        step_predicted_s=None,
        running=requests,
        waiting=0,
        waiting_tokens=queued,
        context_tokens=context,
        held_blocks=0,
        cached_blocks=cache_blocks,
        last_submit=0,
        costs=costs,
    )


def offer(name: str, report: Load | None, cached: int = 0) -> Offer:
    view = WorkerView(card(name))
    if report is not None:
        view.report(report)
    return Offer(view=view, cached_tokens=cached)
