"""Disaggregation in the simulator: one prefill and one decode worker beside two that do both, on the same arrivals.

    .venv/bin/python bench/disagg_sim.py [--seeds 5] [--requests 600]

Prompts of 1,000 to 2,000 tokens arrive by chance (Poisson) while others are being answered, so often that one prefill
worker is busy about a third of the time. Both arms have the same chunk size, settings and gateway policy; which prompts
are handed off is the gateway's choice. Two engines: llama-3.1-8b on an H100, and about SmolLM2-135M on one CPU core.
ITL is the time between any two tokens of a stream, as its client sees them: every step is simulated.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import msgspec
import numpy as np

from jedlik.core.config import NetworkConfig, Role, WorkerConfig
from jedlik.core.effects import Deliver, GatewayEffect
from jedlik.core.events import GatewayEvent
from jedlik.core.ids import StreamId
from jedlik.engines.simulated import DEFAULT_COSTS
from jedlik.perf.model import LinearModel, StepModel
from jedlik.perf.profile import model
from jedlik.perf.step import prefill_s
from jedlik.profiles.catalogue import lookup
from jedlik.sim.outcome import SimulationRun
from jedlik.sim.process import GatewayProcess
from jedlik.sim.setup import Setup, SimPool
from jedlik.sim.workload.offered import Offered, OfferedText
from jedlik.sim.world import Simulation

SHORTEST, LONGEST = 1000, 2000
BUSY = 0.35
WARM_S = 10.0


class Machine(NamedTuple):
    """An engine, and what it stands on."""

    name: str
    model: StepModel
    kv_tokens: int
    token_bytes: int
    output: tuple[int, int]
    host: str | None
    network: NetworkConfig
    chunks: tuple[int, ...]
    """Tokens per step."""


def machines() -> list[Machine]:
    h100 = lookup("llama-3.1-8b/h100/tp1")
    gpu = Machine(
        name="llama-3.1-8b on H100, one host",
        model=model(h100),
        kv_tokens=h100.kv_tokens or 0,
        token_bytes=h100.kv_bytes_per_token or 0,
        output=(100, 300),
        host="one",
        network=NetworkConfig(),
        chunks=(512, 2048),
    )
    cpu = gpu._replace(
        name="135M on one CPU core, one host",
        model=LinearModel(DEFAULT_COSTS),
        kv_tokens=65_536,
        token_bytes=23_040,
        network=NetworkConfig(local_bandwidth_bytes_s=5e9, local_block_s=1e-5),
        output=(300, 900),
        chunks=(128, 256),
    )
    return [gpu, gpu._replace(name="llama-3.1-8b on H100, two hosts", host=None), cpu]


class Arrivals:
    """Poisson; no two prompts share anything."""

    def __init__(self, seed: int, requests: int, rate: float, output: tuple[int, int]) -> None:
        self.total: int | None = requests
        self._seed, self._rate, self._output = seed, rate, output

    def arrivals(self) -> Iterator[Offered]:
        rng, at_s = Random(self._seed), 0.0
        for number in range(self.total or 0):
            at_s += rng.expovariate(self._rate)
            tokens = rng.randint(SHORTEST, LONGEST)
            yield Offered(
                at_s=at_s, text=OfferedText(number, [0], LONGEST, tokens), output_tokens=rng.randint(*self._output)
            )

    def ended(self, offered: Offered, now_s: float) -> Sequence[Offered]:
        return ()


class Gaps:
    """Between any two tokens of a stream, as its client sees them, after the warm-up."""

    def __init__(self, simulation: Simulation) -> None:
        self._last: dict[StreamId, float] = {}
        self.gaps_s: list[float] = []
        for gateway in simulation.network.gateways.values():
            self._watch(gateway)

    def _watch(self, gateway: GatewayProcess) -> None:
        handle = gateway._handle

        def watched(event: GatewayEvent, now: float) -> list[GatewayEffect]:
            effects = handle(event, now)
            for effect in effects:
                if isinstance(effect, Deliver):
                    self._take(effect, now)
            return effects

        gateway._handle = watched

    def _take(self, deliver: Deliver, now: float) -> None:
        for stream in deliver.streams:
            last_s = self._last.get(stream)
            if last_s is not None and last_s > WARM_S:
                self.gaps_s.append(now - last_s)
            self._last[stream] = now
        for ended in deliver.ended:
            self._last.pop(ended.stream, None)


class Result(NamedTuple):
    """Of one arm; seconds."""

    itl_p50: float
    itl_p99: float
    ttft_mean: float
    ttft_p50: float
    ttft_p90: float
    handed: float
    """Share of prompt tokens that were prefilled elsewhere."""
    handoff_s: float
    prefill_busy: float


def setup(machine: Machine, apart: bool, chunk: int) -> Setup:
    """Two workers: for prefill and for decode, or both for both."""
    pool = SimPool(
        name="both",
        count=2,
        profile=machine.name,
        model=machine.model,
        gpus=1.0,
        kv_tokens=machine.kv_tokens,
        start_s=60.0,
        host=machine.host,
        kv_token_bytes=machine.token_bytes,
    )
    one = msgspec.structs.replace(pool, count=1)
    roles: tuple[Role, ...] = ("prefill", "decode")
    pools = tuple(msgspec.structs.replace(one, name=role, role=role) for role in roles) if apart else (pool,)
    worker = WorkerConfig(block_size=16, max_step_tokens=chunk, max_sequences=64)
    return Setup(model="m", pools=pools, worker=worker, network=machine.network, handoffs=apart, step_by_step=True)


def played(machine: Machine, apart: bool, chunk: int, arrivals: Arrivals) -> Result:
    simulation = Simulation(setup(machine, apart, chunk), arrivals)
    gaps = Gaps(simulation)
    run: SimulationRun = simulation.run()
    late = [outcome for outcome in run.outcomes if outcome.arrived_s > WARM_S]
    ttft_s = np.array([outcome.ttft_s for outcome in late if outcome.ttft_s is not None])
    assert all(outcome.ok for outcome in run.outcomes)
    assert len(ttft_s) == len(late)
    prompts, movement = sum(outcome.prompt_tokens for outcome in run.outcomes), run.movement
    return Result(
        float(np.percentile(gaps.gaps_s, 50)),
        float(np.percentile(gaps.gaps_s, 99)),
        float(ttft_s.mean()),
        float(np.percentile(ttft_s, 50)),
        float(np.percentile(ttft_s, 90)),
        movement.handed_tokens / prompts,
        movement.handoff_s / max(movement.handoffs, 1),
        run.busy_s[0] / run.duration_s,
    )


def compared(machine: Machine, chunk: int, seeds: int, requests: int) -> None:
    """A line per arm, and the ratios."""
    costs = machine.model.costs
    rate = BUSY / prefill_s(costs, (SHORTEST + LONGEST) // 2, 0, chunk)
    print(f"\n{machine.name}, chunks of {chunk}, {rate:.3g} prompts/s, {seeds} x {requests} requests")
    results: dict[bool, list[Result]] = {False: [], True: []}
    for seed in range(seeds):
        for apart, found in results.items():
            found.append(played(machine, apart, chunk, Arrivals(seed, requests, rate, machine.output)))
    for apart, found in results.items():
        told = [statistics.median(values) for values in zip(*found, strict=True)]
        line = f"  {'1 prefill + 1 decode' if apart else '2 aggregated':20} ITL p50 {told[0] * 1e3:6.1f} p99 "
        line += f"{told[1] * 1e3:6.1f} ms, TTFT mean {told[2] * 1e3:6.0f} p50 {told[3] * 1e3:6.0f} p90 "
        line += f"{told[4] * 1e3:6.0f} ms, worker 0 {told[7]:.0%} busy"
        print(line + (f", {told[5]:.0%} of prompt tokens handed off in {told[6] * 1e3:.0f} ms" if apart else ""))
    for name, field in (("ITL p99", "itl_p99"), ("TTFT mean", "ttft_mean"), ("TTFT p90", "ttft_p90")):
        pairs = zip(results[True], results[False], strict=True)
        ratios = [getattr(one, field) / getattr(other, field) for one, other in pairs]
        print(f"  {name} ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=600)
    args = parser.parse_args()
    for machine in machines():
        for chunk in machine.chunks:
            compared(machine, chunk, args.seeds, args.requests)


if __name__ == "__main__":
    main()
