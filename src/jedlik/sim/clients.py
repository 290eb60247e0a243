"""The clients of a simulation: offered requests become arrivals at gateways, replies become outcomes and further
requests."""

from collections.abc import Iterator
from random import Random

from jedlik.core.events import Arrived
from jedlik.core.facts import Answered
from jedlik.core.ids import RequestId, StreamId
from jedlik.core.requests import Request, Sampling, Stopping
from jedlik.sim.attainable import Alone, Shared
from jedlik.sim.heap import Heap
from jedlik.sim.outcome import Missed, Outcome
from jedlik.sim.process import GatewayProcess
from jedlik.sim.workload.offered import Offered, Workload
from jedlik.sim.workload.text import Prompts


class Clients:
    """All clients of a simulation. A request goes to a gateway drawn by the seed: load balancers know no sessions."""

    def __init__(self, heap: Heap, workload: Workload, model: str, rng: Random, texts: Prompts) -> None:
        self._heap, self._workload, self._model, self._rng, self._texts = heap, workload, model, rng, texts
        self._arrivals: Iterator[Offered] = iter(())
        self._gateways: list[GatewayProcess] = []
        self._asked: dict[RequestId, tuple[Offered, bool]] = {}
        """And whether its limit can be kept by anybody."""
        self._started: dict[StreamId, int] = {}
        """Index of the worker that gave the first token."""
        self._expected = 1
        """Offered requests that are on the heap, and one for those still to be drawn."""
        self.offered = 0
        self.outcomes: list[Outcome] = []
        self._alone: Alone | None = None
        self._shared = Shared()
        self.attainable: list[bool] = []
        """By outcome; empty where nobody asked for it."""

    def judge(self, alone: Alone) -> None:
        """Note of each request whether its limit can be kept."""
        self._alone = alone

    def begin(self, gateways: list[GatewayProcess]) -> None:
        self._gateways = gateways
        self._arrivals = self._workload.arrivals()
        self._heap.at(0.0, self._next)

    def _stop_if_done(self) -> None:
        """Everybody has been answered and nobody will ask: nothing more is of interest."""
        if not self._expected and not self._asked:
            self._heap.stop()

    def started(self, stream: StreamId, worker: int) -> None:
        """The first token came, from the worker of that index."""
        self._started[stream] = worker

    def answered(self, fact: Answered) -> None:
        """A request has ended, well or not: keep what came of it, and go on."""
        offered, attainable = self._asked.pop(fact.request_id)
        if self._alone is not None:
            self.attainable.append(attainable)
        now = self._heap.now
        outcome = Outcome(
            arrived_s=now - fact.duration_s,
            ttft_s=fact.ttft_s,
            ended_s=now,
            prompt_tokens=fact.prompt_tokens,
            cached_tokens=fact.cached_tokens,
            output_tokens=fact.output_tokens,
            outcome=fact.outcome,
            worker=self._started.pop(StreamId(int(fact.request_id)), -1),
            attempts=fact.attempts,
            session=offered.session,
        )
        self.outcomes.append(outcome)
        for following in self._workload.ended(offered, now):
            self._expected += 1
            self._heap.at(following.at_s, self._ask, following)
        self._stop_if_done()

    def unended(self) -> list[Missed]:
        """Return the requests that were not answered, in the order in which they came."""
        return [Missed(offered.at_s, attainable) for offered, attainable in self._asked.values()]

    def _next(self) -> None:
        """Put the next arrival on the heap: one at a time, so that memory holds what is alive."""
        offered = next(self._arrivals, None)
        if offered is None:
            self._expected -= 1
            self._stop_if_done()
        else:
            self._heap.at(offered.at_s, self._arrive, offered)

    def _arrive(self, offered: Offered) -> None:
        self._expected += 1
        self._ask(offered)
        self._next()

    def _ask(self, offered: Offered) -> None:
        self._expected -= 1
        number = self.offered
        self.offered += 1
        request_id = RequestId(str(number))
        self._asked[request_id] = offered, self._attainable(offered)
        request = Request(
            request_id=request_id,
            first_stream=StreamId(number),
            model=self._model,
            prompt=self._texts.packed(offered.text),
            sampling=Sampling(seed=number, temperature=0.0),
            stopping=Stopping(max_tokens=offered.output_tokens, ignore_eos=True),
            tenant=offered.tenant,
            priority=offered.priority,
            session=offered.session,
        )
        gateways = self._gateways
        gateway = gateways[0] if len(gateways) == 1 else self._rng.choice(gateways)
        gateway.send(Arrived(request))

    def _attainable(self, offered: Offered) -> bool:
        if self._alone is None:
            return True
        text = offered.text
        return self._alone.attainable(text.tokens, self._shared.tokens(text))
