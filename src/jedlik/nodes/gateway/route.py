"""The way from a prompt to a choice of worker: name its blocks, ask the prefix index, ask `routing`, remember why."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, islice

from msgspec.structs import replace

from jedlik.core.config import GatewayConfig
from jedlik.core.errors import Bug
from jedlik.core.facts import WELL, FirstToken, Routed
from jedlik.core.ids import RequestId, WorkerId
from jedlik.core.moves import TIERS
from jedlik.core.protocol import Card, Facts, Snapshot
from jedlik.core.tokens import count
from jedlik.kv.prefix import Match, PrefixIndex
from jedlik.kv.prefix_chains import ChainCache, Naming
from jedlik.nodes.gateway.streams import Stream
from jedlik.nodes.gateway.tokens import Outbox
from jedlik.routing.choose import MAX_HOLDERS, MAX_IDLE, Policies, Selection, choose
from jedlik.routing.cost import Dispatch, own_work
from jedlik.routing.estimates import Calibration, ModelHistory
from jedlik.routing.fitted import LEAST_TOKENS, decode_shape, prefill_shape
from jedlik.routing.pairs import first_token_s
from jedlik.routing.policy import Ask, Matches, Offer, Pair, Refuse
from jedlik.routing.view import Booking, Fleet, WorkerView

Group = tuple[str, int]
"""Model revision and block size: workers of one group name blocks alike."""
PRESSED_S = 30.0
"""Load is taken to be too much for so long after a request had to be refused for it."""
CANDIDATE_BYTES = 600
"""The approximate size of one worker in a recorded routing decision, or of the decision itself."""


class Router:
    """Routing over one fleet and one index, with a bounded memory of decisions."""

    def __init__(
        self,
        config: GatewayConfig,
        naming: Naming,
        fleet: Fleet,
        index: PrefixIndex,
        policies: Policies,
        first_turn: int = 0,
    ) -> None:
        """`first_turn` differs between gateways, so that they don't send to the same worker at once."""
        self._turn = first_turn
        self._config = config
        self._policies = policies
        self._naming = naming
        self.fleet = fleet
        self._index = index
        self._routed: OrderedDict[RequestId, list[Routed]] = OrderedDict()
        self._chains: dict[Group, ChainCache] = {}
        self._members: dict[str, dict[Group, int]] = {}
        """Workers by model and group."""
        self._calibrations: dict[WorkerId, Calibration] = {}
        self._history: defaultdict[str, ModelHistory] = defaultdict(ModelHistory)
        """Estimates by model."""

    def joined(self, card: Card) -> None:
        """Take a worker that has joined."""
        group = (card.revision, card.layout.block_size)
        groups = self._members.setdefault(card.model, {})
        groups[group] = groups.get(group, 0) + 1
        self._calibrations[card.worker] = Calibration()
        self._index.join(card.worker, card.prefix_closed, [TIERS.index(one.tier) for one in card.tiers])
        if group not in self._chains:
            self._chains[group] = self._naming.chains(*group)

    def removed(self, card: Card) -> None:
        """Forget a worker that has left."""
        group = (card.revision, card.layout.block_size)
        groups = self._members[card.model]
        del self._calibrations[card.worker]
        self._index.leave(card.worker)
        groups[group] -= 1
        if not groups[group]:
            del groups[group]
        if not groups:
            del self._members[card.model]

    def follow(self, worker: WorkerId, message: Facts | Snapshot) -> bool:
        """Take a worker's message about its caches. False: it is out of step and must send snapshots."""
        if isinstance(message, Facts):
            return self._index.apply(worker, message)
        return self._index.replace(worker, message)

    def synced(self, worker: WorkerId) -> bool:
        """Return whether everything that a worker said of its caches has been followed."""
        return self._index.synced(worker)

    def matches(self, stream: Stream) -> Matches:
        """Return how much of a stream's history the workers with most of it and those with the least backlog have.

        All workers are looked up if the policy is offered all; none if the request re-uses nothing.
        """
        request = stream.request
        matches = Matches(cached={})
        if request.sampling.prompt_logprobs is not None and not stream.started:
            return Matches(cached={}, alone=True)
        history, everyone = stream.history(), self._policies.serving.everyone
        wanted = False
        for group in self._members.get(request.model, ()):
            block_size = group[1]
            keys = self._chains[group].keys(history, request.tenant, request.salt)
            match = self._index.match(keys)
            wanted |= self._wanted(stream, keys, match, block_size)
            if match.empty():
                continue
            deepest = match.deepest(None if everyone else MAX_HOLDERS)
            if match.tiered:
                _add_tiers(matches, match, deepest, block_size)
            else:
                for worker, depth in deepest.items():
                    matches.cached[worker] = depth * block_size
            least = () if everyone else islice(self.fleet.least_loaded(request.model), 2 * MAX_IDLE)
            idle = [view.card.worker for view in chain(least, islice(self.fleet.prefillers(request.model), MAX_IDLE))]
            if match.tiered:
                _add_tiers(matches, match, idle, block_size)
                continue
            for worker in idle:
                if depth := match.depth(worker):
                    matches.cached[worker] = depth * block_size
        return replace(matches, wanted=True) if wanted else matches

    def _workers(self, model: str) -> int:
        return max(1, sum(self._members.get(model, {}).values()))

    def _wanted(self, stream: Stream, keys: list[int], match: Match, block_size: int) -> bool:
        """Return whether more workers should have the prefix that was found; counts it, once for each request."""
        model = stream.request.model
        depth, holders = match.most()
        reuse = self._history[model].reuse
        last = keys[depth - 1] if depth else None
        if not stream.seen:
            stream.seen = True
            reuse.observe(stream.history_tokens(), min(depth * block_size, stream.history_tokens() - 1), last)
        return last is not None and holders < reuse.share(last) * self._workers(model)

    def route(self, stream: Stream, matches: Matches, now: float, fresh: bool) -> tuple[Selection, Routed]:
        """Choose a worker for the next attempt of a stream. `fresh`: it may wait or be refused."""
        request = stream.request
        self._turn += 1
        selection = choose(self.fleet, self._ask(stream, matches, now, fresh), matches, self._policies)
        worker, predicted = selection.chosen.worker if selection.chosen else None, selection.first_token_s
        if worker is not None and predicted is not None:
            predicted *= self._calibrations[worker].correction
        offer = selection.offer
        if offer is not None and offer.pair is not None and offer.terms is not None and offer.pair.expected_s:
            predicted = first_token_s(offer.terms)
        routed = Routed(
            request_id=request.request_id,
            attempt=stream.attempt + 1,
            tenant=request.tenant,
            at=now,
            prompt_tokens=count(request.prompt),
            chosen=worker,
            unit=selection.unit,
            candidates=selection.candidates,
            choice=stream.choice,
            policy=selection.policy,
            failure=selection.failure,
            predicted_ttft_s=predicted,
            shadow=selection.shadow,
            deferred=selection.deferred.why if selection.deferred else "",
            shed=selection.deferred.kind if isinstance(selection.deferred, Refuse) else "",
            waited_s=0.0 if stream.attempt else now - stream.arrived_at,
            remote=selection.chosen.remote if selection.chosen else None,
            compute=selection.chosen is None or selection.chosen.compute,
        )
        return selection, routed

    def answered(self, stream: Stream, outcome: str, tokens: int) -> None:
        """Learn the length of an answer from a stream that has ended."""
        if outcome in WELL:
            self._history[stream.request.model].lengths.observe(tokens)

    def refused(self, stream: Stream, refusal: Refuse, now: float) -> None:
        """Take note of a refused request."""
        if refusal.pressed:
            self._history[stream.request.model].pressed_until = now + PRESSED_S

    def _ask(self, stream: Stream, matches: Matches, now: float, fresh: bool) -> Ask:
        request, done, config = stream.request, len(stream.output), self._config
        history = self._history[request.model]
        lengths = history.lengths
        remaining = max(0, request.stopping.max_tokens - done)
        expected = round(lengths.mean) if request.output_hint is None else request.output_hint - done
        objective_s, waited_s = config.slo_ttft_s if fresh else None, now - stream.arrived_at
        return Ask(
            request_id=request.request_id,
            choice=stream.choice,
            model=request.model,
            history_tokens=stream.history_tokens(),
            output_tokens=min(remaining, max(1, expected)),
            avoid=stream.avoid,
            session=request.session,
            ttft_s=None if objective_s is None else objective_s - waited_s,
            itl_s=config.slo_itl_s,
            waited_s=waited_s,
            lengths=lengths,
            shed=config.shed and history.reuse.known,
            pressed=now < history.pressed_until,
            reuse=0.0 if matches.wanted else history.reuse.times,
            taken=not fresh,
            alone=matches.alone,
            turn=self._turn,
        )

    def first_token(self, stream: Stream, out: Outbox) -> None:
        """Remember when an attempt's first token came, and learn from it how good predictions for its worker are."""
        routed, peer = stream.routed, stream.peer
        if routed is None or peer is None:
            return
        observed_s = out.now - routed.at
        self._observed(routed, observed_s)
        predicted_s, tried = routed.predicted_ttft_s, stream.tried
        if predicted_s is None or tried is None or stream.modelled_s is None:
            return
        worker = tried.card.worker
        if self.fleet.get(worker) is not tried:
            return  # the worker that prefilled it has left meanwhile
        calibration = self._calibrations[worker]
        calibration.observe(stream.modelled_s, observed_s - stream.rest_s)
        tried.correct(calibration.correction if calibration.enough else None)
        out.note(
            FirstToken(
                request_id=routed.request_id,
                choice=stream.choice,
                worker=worker,
                predicted_s=predicted_s,
                observed_s=observed_s,
                ratio=calibration.ratio,
            )
        )

    def _observed(self, routed: Routed, observed_s: float) -> None:
        decisions = self._routed.get(routed.request_id, ())
        for at in range(len(decisions) - 1, -1, -1):
            if decisions[at] is routed:
                self._routed[routed.request_id][at] = replace(routed, observed_ttft_s=observed_s)
                return

    def explain(self, request_id: RequestId) -> Sequence[Routed]:
        """Return the decisions about a request, oldest first."""
        return tuple(self._routed.get(request_id, ()))

    def caches(self) -> dict[str, tuple[int, int]]:
        """Return items and bytes of each cache."""
        chains = self._chains.values()
        candidates = sum(1 + len(routed.candidates) for decisions in self._routed.values() for routed in decisions)
        return {
            "index": (len(self._index), self._index.size_bytes()),
            "names": (sum(map(len, chains)), sum(chain.size_bytes() for chain in chains)),
            "explain": (len(self._routed), CANDIDATE_BYTES * candidates),
        }

    def remember(self, routed: Routed, out: Outbox) -> None:
        """Report a decision, and store it for `explain`."""
        out.note(routed)
        self._routed.setdefault(routed.request_id, []).append(routed)
        if len(self._routed) > self._config.explain_requests:
            self._routed.popitem(last=False)

    def check(self) -> None:
        """Raise Bug unless every worker is calibrated and the index is sound."""
        self._index.check()
        if {view.card.worker for view in self.fleet} != self._calibrations.keys():
            raise Bug("gateway: fleet and calibrations differ")
        for view in self.fleet:
            self._calibrations[view.card.worker].check()


def _add_tiers(matches: Matches, match: Match, workers: Iterable[WorkerId], block_size: int) -> None:
    """Add the tokens that these workers have on their devices and in lower tiers."""
    for worker in workers:
        tiers = match.tiers(worker)
        if tiers:
            matches.tiers[worker] = tuple([(TIERS[tier], depth * block_size) for tier, depth in tiers])
        device = match.depth(worker)
        if tiers or device:
            matches.cached[worker] = device * block_size


def booking(chosen: Offer, history: int) -> Booking:
    """Return what a dispatch will be to the worker that decodes it, until its reports include it."""
    pair, costs = chosen.pair, chosen.view.costs
    if pair is not None:
        return Booking(max(0, history - 1 - pair.supplied_tokens), history)
    cached = chosen.cached_tokens
    if chosen.tiers and costs is not None:
        dispatch = Dispatch(history_tokens=history, output_tokens=0, cached_tokens=cached, tiers=chosen.tiers)
        cached = own_work(chosen.view, dispatch, costs).cached_tokens
    return Booking(max(1, history - cached), history)


def tried_by(chosen: Offer, pair: Pair) -> tuple[WorkerView | None, float | None, float]:
    """Return (the worker whose step model the first token of a pair tries, its prediction, the rest's prediction)."""
    terms = chosen.terms
    if not pair.compute or not pair.expected_s or terms is None:
        return None, None, 0.0
    corrected_s = terms["remote_wait"] + terms["remote_prefill"]
    return pair.source, corrected_s / pair.source.correction, first_token_s(terms) - corrected_s


def learn_prefill(stream: Stream, now: float) -> None:
    """Learn from a first token what prefill costs, if its worker reports no step costs (`routing/fitted`)."""
    if stream.peer is None or stream.routed is None:
        return
    view, prompt, cached = stream.peer.view, stream.history_tokens(), stream.cached_tokens
    fitted, work = view.alike.fitted, view.work
    if fitted is None or work is None:
        return
    if stream.at_idle and stream.queued_s is not None:
        steps = max(1, -(-(prompt - cached) // view.card.max_step_tokens))
        fitted.observe(prefill_shape(prompt, cached, steps), (now - stream.routed.at - stream.queued_s) / steps)
    work.first_token(prompt, cached, now)
    stream.mark = work.mark(now), len(stream.output) + 1


def learn_decode(stream: Stream, now: float) -> None:
    """Learn from an attempt that ends what decoding costs, if its worker reports no step costs."""
    if stream.peer is None or stream.mark is None:
        return
    fitted, work = stream.peer.view.alike.fitted, stream.peer.view.work
    if fitted is None or work is None:
        return
    first, length = stream.mark
    last, steps = work.mark(now), len(stream.output) - length
    if steps >= LEAST_TOKENS and last.at_s > first.at_s:
        fitted.observe(decode_shape(first, last, steps), (last.at_s - first.at_s) / steps)
