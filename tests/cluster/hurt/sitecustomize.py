"""Loaded by the test server's processes: lets a signal break a simulated engine while its event loop lives.

SIGUSR1: the next step never ends. SIGUSR2: the next step fails.
"""

import signal
import sys

if "jedlik.serve.worker_process" in sys.orig_argv:
    from jedlik.core.step import StepDone
    from jedlik.engines.simulated import SimulatedEngine

    def fail_step(engine: SimulatedEngine) -> None:
        step = engine._queue.popleft()
        engine._timer = None
        if engine._on_done is not None:
            engine._on_done(StepDone(step_id=step.step_id, lanes=[], tokens=[], elapsed_s=0.0, error="out of memory"))

    def hang(*_: object) -> None:
        setattr(SimulatedEngine, "_run", lambda engine: None)  # noqa: B010 - not a product's way to assign

    def fail(*_: object) -> None:
        setattr(SimulatedEngine, "_end", fail_step)  # noqa: B010 - not a product's way to assign

    signal.signal(signal.SIGUSR1, hang)
    signal.signal(signal.SIGUSR2, fail)
