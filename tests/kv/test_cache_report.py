"""Snapshots are cut into chunks that say the same as the whole."""

from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.protocol import Snapshot, Stored
from jedlik.kv.cache_report import chunked
from worker_world import CacheView


@given(st.lists(st.integers(1, 9), max_size=8), st.integers(1, 7))
def test_chunks_are_bounded_and_add_up(lengths: list[int], most: int) -> None:
    runs, key = [], 0
    for length in lengths:
        parent = key if key % 2 else None  # some follow the run before, some begin anew
        runs.append(Stored(parent, list(range(key + 1, key + 1 + length))))
        key += length
    chunks = list(chunked(runs, most))
    assert chunks
    assert all(sum(len(run.keys) for run in chunk) <= most for chunk in chunks)
    view, whole = CacheView(), CacheView()
    whole.take(Snapshot(number=3, chunk=0, last=True, runs=runs, digest=sum(range(key + 1))))
    for at, chunk in enumerate(chunks):
        assert not view.complete
        view.take(Snapshot(number=3, chunk=at, last=at == len(chunks) - 1, runs=chunk, digest=sum(range(key + 1))))
    assert view.keys == whole.keys
