"""Runs made by hand and by arithmetic, for reports to be made from."""

from math import sin

from jedlik.sim.outcome import Action, FleetSample, Outcome, SimulationRun


def outcome(**given: object) -> Outcome:
    """An answer that came after 1 s, then a token each 10 ms."""
    fields: dict[str, object] = {
        "arrived_s": 0.0,
        "ttft_s": 1.0,
        "ended_s": 2.0,
        "prompt_tokens": 100,
        "cached_tokens": 0,
        "output_tokens": 101,
        "outcome": "length",
        "worker": 0,
        "attempts": 1,
    }
    return Outcome(**(fields | given))  # type: ignore[arg-type]


def run(outcomes: list[Outcome], **given: object) -> SimulationRun:
    """Two workers of two GPUs, 10 simulated seconds."""
    fields: dict[str, object] = {
        "outcomes": outcomes,
        "samples": [],
        "actions": [],
        "workers": ["a/0", "a/1"],
        "gpus": [2.0, 2.0],
        "gpu_s": 40.0,
        "duration_s": 10.0,
        "cpu_s": 0.5,
        "wall_s": 1.0,
        "events": 100,
        "offered": len(outcomes),
    }
    return SimulationRun(**(fields | given))  # type: ignore[arg-type]


def wavy(requests: int, workers: int, samples: int = 900, duration_s: float = 900.0) -> SimulationRun:
    """Load that rises and falls, with bursts, sheds and faults: something to look at."""
    return run(
        [_wave(number, requests, workers, duration_s) for number in range(requests)],
        samples=[_sample(number * duration_s / samples, workers, duration_s) for number in range(samples)],
        actions=[
            Action(0.2 * duration_s, "slow", "a/1", "3 times slower for 60 s"),
            Action(0.5 * duration_s, "crash", "a/2", ""),
            Action(0.5 * duration_s + 60, "start", "a/2", "after 60 s"),
        ],
        workers=[f"a/{index}" for index in range(workers)],
        gpus=[2.0] * workers,
        gpu_s=2.0 * workers * duration_s,
        duration_s=duration_s,
    )


def _noise(number: int) -> float:
    return (number * 2654435761 % 4294967296) / 4294967296


def _wave(number: int, requests: int, workers: int, duration_s: float) -> Outcome:
    at_s = number * duration_s / requests
    load = 1 + 0.9 * sin(at_s / duration_s * 12)
    ttft_s = (0.15 + 2.5 * load**2 * _noise(number) ** 3) * (4 if 0.5 < at_s / duration_s < 0.55 else 1)
    tokens = 1 + int(600 * _noise(number * 7 + 1))
    itl_s = 0.008 + 0.02 * load * _noise(number * 3 + 2)
    shed = ttft_s > 6
    prompt = 500 + int(20000 * _noise(number * 5 + 3) ** 2)
    return outcome(
        arrived_s=at_s,
        ttft_s=None if shed else ttft_s,
        ended_s=at_s if shed else at_s + ttft_s + itl_s * (tokens - 1),
        prompt_tokens=prompt,
        cached_tokens=int(prompt * 0.5 * _noise(number + 9) * (0.4 + at_s / duration_s)),
        output_tokens=0 if shed else tokens,
        outcome="overloaded" if shed else "length",
        worker=-1 if shed else number * 31 % workers,
    )


def _sample(at_s: float, workers: int, duration_s: float) -> FleetSample:
    load = 1 + 0.9 * sin(at_s / duration_s * 12)
    running = [int(30 * load * (0.6 + 0.4 * _noise(index * 77 + int(at_s)))) for index in range(workers)]
    down = 0.5 * duration_s < at_s < 0.5 * duration_s + 60
    running = [0 if down and index == 2 else value for index, value in enumerate(running)]
    waiting = [max(0, value - 40) for value in running]
    return FleetSample(
        at_s=at_s,
        running=running,
        waiting=waiting,
        context_tokens=[value * 3000 for value in running],
        cached_blocks=[2000] * workers,
    )
