"""Profiles as JSON, and what is refused of them."""

import msgspec
import pytest

from jedlik.core.errors import ConfigError
from jedlik.perf.linear import PhaseCosts, PhaseModel
from jedlik.perf.profile import Profile, from_json, model, to_json
from jedlik.perf.table import Table, TableModel

COSTS = PhaseCosts(
    prefill_base_s=0.01,
    prefill_token_s=1e-4,
    prefill_pair_s=0.0,
    decode_base_s=0.005,
    decode_sequence_s=1e-3,
    context_token_s=1e-7,
)
TABLE = Table(
    prefill_tokens=(16, 64),
    prefill_s=(0.01, 0.02),
    prefill_pair_s=0.0,
    batches=(1, 2),
    decode_s=(0.01, 0.011),
    context_token_s=(1e-7, 1e-7),
    mixed_sequence_s=1e-3,
)
PROFILE = Profile(name="m/cpu/x1", model="m", device="cpu", backend="torch", costs=COSTS, gpus=0, kv_tokens=1000)


@pytest.mark.parametrize("profile", [PROFILE, msgspec.structs.replace(PROFILE, table=TABLE, measured=True)])
def test_what_was_written_is_read(profile: Profile) -> None:
    assert from_json(to_json(profile), "file") == profile


def test_a_table_is_preferred() -> None:
    assert isinstance(model(PROFILE), PhaseModel)
    assert isinstance(model(msgspec.structs.replace(PROFILE, table=TABLE)), TableModel)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"costs": msgspec.structs.replace(COSTS, prefill_token_s=-1.0)}, "costs.prefill_token_s is -1.0"),
        ({"costs": msgspec.structs.replace(COSTS, decode_base_s=0.0, decode_sequence_s=0.0)}, "take no time"),
        ({"kv_tokens": 0}, "kv_tokens is 0"),
        ({"tp": 0}, "tp is 0"),
        ({"table": msgspec.structs.replace(TABLE, batches=(2, 1))}, "table.batches must"),
        ({"table": msgspec.structs.replace(TABLE, decode_s=(0.01,))}, "1 values for 2 batches"),
        ({"table": msgspec.structs.replace(TABLE, prefill_s=(-0.1, 0.2))}, "below 0 s"),
    ],
)
def test_nonsense_is_refused_by_name(change: dict[str, object], message: str) -> None:
    broken = msgspec.json.encode(msgspec.structs.replace(PROFILE, **change))
    with pytest.raises(ConfigError, match=message) as refused:
        from_json(broken, "mine.json")
    assert str(refused.value).startswith("mine.json: ")


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"name": "x"}', to_json(PROFILE).replace(b'"tp"', b'"tpp"') + b"x"])
def test_what_is_no_profile_says_how_to_make_one(raw: bytes) -> None:
    with pytest.raises(ConfigError, match="jedlik profile MODEL --out FILE"):
        from_json(raw, "mine.json")
