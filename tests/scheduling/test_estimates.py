"""What waiting sequences would have to compute: what of their history is not cached, and its pairs."""

import pytest

from jedlik.core.requests import Sampling
from jedlik.kv.hashing import BlockHasher
from jedlik.kv.pool import BlockPool
from jedlik.perf.step import chunk_pairs
from jedlik.scheduling.booking import SequenceBlocks
from jedlik.scheduling.queue import WaitingQueue
from jedlik.scheduling.sequence import Sequence
from worker_world import GATEWAY, KEY, make_submit

BLOCK = 4
HASHER = BlockHasher(KEY, "r", BLOCK)


def waiting(number: int, tokens: int, output: int = 0, sampling: Sampling | None = None) -> Sequence:
    submit = make_submit(number, list(range(tokens)), output=list(range(tokens, tokens + output)), sampling=sampling)
    return Sequence(submit, GATEWAY, number, 0.0, HASHER.root(""))


def booking_with(cached_blocks: int) -> SequenceBlocks:
    """The first blocks of everybody's history are cached."""
    booking = SequenceBlocks(BlockPool(32), HASHER)
    sequence = waiting(99, cached_blocks * BLOCK + 1)
    booking.open(sequence)
    sequence.scheduled = min(booking.grow(sequence, cached_blocks * BLOCK), cached_blocks * BLOCK)
    booking.publish(sequence)
    booking.release(sequence)
    assert booking.pool.cached_blocks == cached_blocks
    return booking


@pytest.mark.parametrize(
    ("tokens", "output", "cached", "missing"),
    [
        (10, 0, 0, 10),
        (10, 0, 1, 6),
        (10, 0, 8, 2),
        (8, 0, 2, 4),  # the last token is always computed, and blocks are shared whole
        (9, 0, 2, 1),
        (6, 4, 2, 2),  # output delivered before counts as history
    ],
)
def test_a_waiting_sequence_counts_what_it_lacks(tokens: int, output: int, cached: int, missing: int) -> None:
    sequence, booking = waiting(1, tokens, output), booking_with(cached)
    booking.estimate(sequence)
    assert sequence.missing == missing
    assert sequence.missing_pairs == chunk_pairs(tokens + output - missing, missing)


def test_who_wants_its_prompt_s_logprobs_computes_all_of_it() -> None:
    sequence = waiting(1, 10, sampling=Sampling(prompt_logprobs=1))
    booking_with(2).estimate(sequence)
    assert (sequence.missing, sequence.missing_pairs) == (10, 55)


def test_the_queue_counts_what_it_was_told_whatever_is_cached_later() -> None:
    queue, cold, warm = WaitingQueue(), booking_with(0), booking_with(2)
    first, second = waiting(1, 10), waiting(2, 10)
    cold.estimate(first)
    warm.estimate(second)
    for sequence in (first, second):
        queue.push(sequence)
        queue.check()
    assert (queue.tokens, queue.pairs) == (12, 55 + 19)
    queue.remove(first)
    assert (queue.tokens, queue.pairs) == (2, 19)
    queue.remove(second)
    assert (queue.tokens, queue.pairs) == (0, 0)
