"""What a server takes of memory: estimate from its settings, and refused with the flags that would help."""

import pytest

from jedlik.core.config import PlannerConfig, ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.serve.memory import SERVER_BYTES, MemoryUse, check, summary, total, with_caches, without_cache
from jedlik.serve.sizing import LEAST_BYTES, MOST_BYTES

GIB = 1 << 30
WEIGHTS = 300 << 20


def config(**settings: object) -> ServeConfig:
    return ServeConfig(model="m", **settings)  # type: ignore[arg-type]


def estimate(settings: ServeConfig, weights: int, free: int) -> MemoryUse:
    bare = without_cache(settings, settings.most_workers, weights)
    return with_caches([settings], [bare], free)[0]


@pytest.mark.parametrize("free", [2 * GIB, 3 * GIB, 4 * GIB, 8 * GIB, 24 * GIB, 1000 * GIB])
@pytest.mark.parametrize("weights", [WEIGHTS, 2 * WEIGHTS])
@pytest.mark.parametrize("workers", [1, 2, 16])
def test_the_default_fits_or_is_refused_and_never_takes_all(free: int, weights: int, workers: int) -> None:
    takes = estimate(config(workers=workers), weights, free)
    assert total([takes]) == SERVER_BYTES + workers * (takes.process + weights + takes.cache)
    assert LEAST_BYTES <= takes.cache <= MOST_BYTES
    bare = total([takes]) - workers * takes.cache
    if bare + workers * LEAST_BYTES <= free:
        check([takes], free)
        assert workers * takes.cache <= max((free - bare) / 2, workers * LEAST_BYTES)
    else:
        with pytest.raises(ConfigError, match="are free here"):
            check([takes], free)


def test_two_workers_of_a_small_model_start_with_4_gib() -> None:
    takes = estimate(config(), WEIGHTS, 4 * GIB)
    check([takes], 4 * GIB)
    assert takes.cache > 256 << 20


def test_all_workers_that_there_may_be_count() -> None:
    planned = config(workers=1, planner=PlannerConfig(budget=4.0))
    assert estimate(planned, WEIGHTS, 64 * GIB) == estimate(config(workers=4), WEIGHTS, 64 * GIB)


@pytest.mark.parametrize(
    ("settings", "remedies"),
    [
        ({"kv_cache_bytes": 900 * GIB}, ("--kv-cache-bytes", "--workers")),
        ({"kv_host_bytes": 900 * GIB}, ("--kv-host-bytes", "--workers")),
        ({"kv_host_bytes": 900 * GIB, "workers": 1}, ("--kv-host-bytes",)),
        ({"workers": 900}, ("--workers",)),
        ({"workers": 900, "engine": "simulated"}, ("--workers",)),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would_help(
    settings: dict[str, object], remedies: tuple[str, ...]
) -> None:
    takes = estimate(config(**settings), WEIGHTS, 24 * GIB)
    with pytest.raises(ConfigError) as caught:
        check([takes], 24 * GIB)
    remedy = str(caught.value).partition("are free here")[2]
    assert [flag for flag in ("--kv-cache-bytes", "--kv-host-bytes", "--workers") if flag in remedy] == list(remedies)


def test_what_is_on_a_gpu_is_not_of_this_host() -> None:
    takes = estimate(config(kv_cache_bytes=900 * GIB, device="cuda"), 0, 24 * GIB)
    assert (takes.cache, takes.weights) == (0, 0)
    check([takes], 24 * GIB)


def test_what_is_taken_is_told_with_the_flag_that_changes_it() -> None:
    assert "--kv-cache-bytes" in summary([estimate(config(), WEIGHTS, 24 * GIB)], 24 * GIB)
