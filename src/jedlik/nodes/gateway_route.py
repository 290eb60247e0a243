"""From a prompt to a choice of worker: names its blocks, asks the prefix index, asks `routing`; remembers why."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice

from jedlik.core.config import GatewayConfig
from jedlik.core.facts import Routed
from jedlik.core.ids import RequestId, WorkerId
from jedlik.core.protocol import Card
from jedlik.core.tokens import count
from jedlik.kv.hashing import BlockHasher
from jedlik.kv.prefix import PrefixIndex
from jedlik.kv.prefix_chains import ChainCache
from jedlik.nodes.gateway_streams import Stream
from jedlik.routing.choose import MAX_HOLDERS, MAX_IDLE, Choice, Held, Policies, choose
from jedlik.routing.cost import EXPECTED_OUTPUT
from jedlik.routing.policy import Ask
from jedlik.routing.view import Fleet

CHAIN_BYTES = 16 << 20
"""Budget, for each group, of the names of blocks of prompts seen before."""
Group = tuple[str, int]
"""Model revision and block size: workers of one group name blocks alike."""


class Router:
    """Routing over one fleet and one index, with a bounded memory of decisions."""

    def __init__(
        self, config: GatewayConfig, cluster_key: bytes, fleet: Fleet, index: PrefixIndex, policies: Policies
    ) -> None:
        self._config = config
        self._policies = policies
        self._cluster_key = cluster_key
        self._fleet = fleet
        self._index = index
        self._routed: OrderedDict[RequestId, list[Routed]] = OrderedDict()
        self._chains: dict[Group, ChainCache] = {}
        self._members: dict[str, dict[Group, int]] = {}
        """Workers by model and group."""

    def joined(self, card: Card) -> None:
        """A worker of this card came."""
        group = (card.revision, card.layout.block_size)
        groups = self._members.setdefault(card.model, {})
        groups[group] = groups.get(group, 0) + 1
        if group not in self._chains:
            self._chains[group] = ChainCache(BlockHasher(self._cluster_key, *group), CHAIN_BYTES)

    def left(self, card: Card) -> None:
        """A worker of this card went."""
        group = (card.revision, card.layout.block_size)
        groups = self._members[card.model]
        groups[group] -= 1
        if not groups[group]:
            del groups[group]
        if not groups:
            del self._members[card.model]

    def held(self, stream: Stream) -> Held:
        """What of a stream's history is cached, at the workers with most of it and at those with the least backlog.

        At all workers where the policy is offered all. Empty where the request re-uses nothing.
        """
        request = stream.request
        tokens: dict[WorkerId, int] = {}
        if request.sampling.prompt_logprobs is not None and not stream.started:
            return Held(tokens)
        history, everyone = stream.history(), self._policies.serving.everyone
        for group in self._members.get(request.model, ()):
            block_size = group[1]
            match = self._index.match(self._chains[group].keys(history, request.tenant, request.salt))
            if match.empty():
                continue
            for worker, depth in match.deepest(None if everyone else MAX_HOLDERS).items():
                tokens[worker] = depth * block_size
            for view in () if everyone else islice(self._fleet.least_loaded(request.model), 2 * MAX_IDLE):
                if depth := match.depth(view.card.worker):
                    tokens[view.card.worker] = depth * block_size
        return Held(tokens)

    def route(self, stream: Stream, held: Held, now: float) -> tuple[Choice, Routed]:
        """Choose a worker for the next attempt of a stream."""
        request = stream.request
        choice = choose(self._fleet, self._ask(stream, now), held, self._policies)
        routed = Routed(
            request_id=request.request_id,
            attempt=stream.attempt + 1,
            tenant=request.tenant,
            at=now,
            prompt_tokens=count(request.prompt),
            chosen=choice.chosen.worker if choice.chosen else None,
            unit=choice.unit,
            candidates=choice.candidates,
            choice=stream.choice,
            policy=choice.policy,
            failure=choice.failure,
            shadow=choice.shadow,
        )
        return choice, routed

    def _ask(self, stream: Stream, now: float) -> Ask:
        request, done, config = stream.request, len(stream.output), self._config
        left = max(0, request.stopping.max_tokens - done)
        expected = EXPECTED_OUTPUT if request.output_hint is None else max(1, request.output_hint - done)
        promised = None if done else config.slo_ttft_s
        return Ask(
            request.request_id,
            stream.choice,
            request.model,
            stream.history_tokens(),
            min(left, expected),
            stream.avoid,
            request.session,
            None if promised is None else promised - (now - stream.arrived_at),
            config.slo_itl_s,
        )

    def explain(self, request_id: RequestId) -> Sequence[Routed]:
        """Decisions about a request, oldest first."""
        return tuple(self._routed.get(request_id, ()))

    def remember(self, routed: Routed) -> None:
        """Keep a decision for `explain`."""
        self._routed.setdefault(routed.request_id, []).append(routed)
        if len(self._routed) > self._config.explain_requests:
            self._routed.popitem(last=False)
