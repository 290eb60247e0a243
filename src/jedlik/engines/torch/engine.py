"""The PyTorch engine as a worker drives it: load once, then steps in order on a thread of its own.

`submit` never blocks; `on_done` is called from the engine's thread. A step that raises is reported as
`StepDone.error`, and so is every later one.
"""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from jedlik.core.errors import Bug, ConfigError
from jedlik.core.protocol import Layout
from jedlik.core.step import Step, StepDone
from jedlik.engines.torch import weights
from jedlik.engines.torch.attention import Rows, fixed_rows, torch_rows
from jedlik.engines.torch.lanes import Lanes
from jedlik.engines.torch.options import EngineFacts, EngineOptions, capabilities, dtype_of
from jedlik.engines.torch.pool import KvPool
from jedlik.engines.torch.rows import native_rows
from jedlik.engines.torch.runner import FixedShapes, Runner
from jedlik.engines.torch.sampler import Sampler

OnDone = Callable[[StepDone], None]
Buffer = torch.Tensor | bytearray | memoryview


class TorchEngine:
    """The PyTorch engine; it fulfils the step contract (core/step).

    Callers with a thread of their own use `run`; the others use `start` and `submit`.
    """

    def __init__(
        self, path: Path, options: EngineOptions, buffer: Callable[[Layout, str], Buffer],
        progress: weights.Progress | None = None,
    ) -> None:  # fmt: skip
        """Load the model. `buffer(layout, device)` is asked for the KV cache's memory once the layout is known."""
        device = device_of(options.device)
        if device == "cpu":
            torch.set_num_threads(options.threads)
        dtype = dtype_of(options.dtype, device)
        loaded = weights.load(path, dtype, device, options, progress)
        pool = KvPool(buffer(loaded.layout, device), loaded.layout)
        rows, attention = _rows(options, device, loaded)
        lanes = Lanes(options.max_sequences, options.max_model_len, options.block_size)
        sampler = Sampler(options.max_sequences, loaded.vocab_size, device)
        shapes = FixedShapes() if options.deterministic else None
        self._runner = Runner(loaded.model, pool, lanes, sampler, rows, shapes)
        self.facts = EngineFacts(
            layout=loaded.layout,
            total_blocks=pool.total_blocks,
            vocab_size=loaded.vocab_size,
            device=device,
            attention=attention,
            parameters=loaded.parameters,
            capabilities=capabilities(options.deterministic),
        )
        self._runner.warm_up()
        self._steps: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failed: str | None = None

    def run(self, step: Step) -> StepDone:
        """Run one step on the caller's thread. Raises whatever goes wrong; the engine is of no use afterwards."""
        return self._runner.run(step)

    def start(self, on_done: OnDone) -> None:
        """Start the engine's thread, once; `on_done` is called on it."""
        if self._thread is not None:
            raise Bug("engine started twice")
        self._thread = threading.Thread(target=self._work, args=(on_done,), name="engine")
        self._thread.start()

    def submit(self, step: Step) -> None:
        """Queue a step behind those submitted before."""
        self._steps.put(step)

    def close(self) -> None:
        """Finish the submitted steps and end the thread."""
        if self._thread is not None:
            self._steps.put(None)
            self._thread.join()
            self._thread = None

    def check(self) -> None:
        """Assert the engine's invariants; not while a step runs."""
        self._runner.check()

    def _work(self, on_done: OnDone) -> None:
        while (step := self._steps.get()) is not None:
            on_done(self._attempt(step))

    def _attempt(self, step: Step) -> StepDone:
        if self._failed is None:
            try:
                return self._runner.run(step)
            except Exception as error:  # reported to the worker, which ends every sequence and is restarted
                self._failed = f"{type(error).__name__}: {error}"
        return StepDone(step_id=step.step_id, lanes=[], tokens=[], elapsed_s=0.0, error=self._failed)


def device_of(device: str) -> str:
    """Return the device that a setting stands for here. Raises ConfigError if CUDA is asked for and not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch sees no GPU; use --device cpu, or install a CUDA build of torch")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def _rows(options: EngineOptions, device: str, loaded: weights.LoadedModel) -> tuple[Rows, Literal["native", "torch"]]:
    """Return the function by which single tokens attend: compiled where possible."""
    if device == "cpu" and options.native:
        native = native_rows(Path(options.cache_dir), loaded.layout, loaded.heads, options.threads)
        if native is not None:
            return native, "native"
    return fixed_rows if options.deterministic else torch_rows, "torch"
