"""The `fleet:` section: what is wrong is named with file, line, key and the nearest match."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.config import FleetConfig, NetworkConfig, PoolConfig
from jedlik.core.errors import ConfigError
from jedlik.serve.fleet import line_of, priced
from jedlik.serve.settings import settle

POOL = "fleet:\n  pools:\n    - {name: a, count: 2, profile: p}\n"


def settled(folder: Path, text: str, simulated: bool = True) -> FleetConfig | None:
    file = folder / "cluster.yaml"
    file.write_text(text)
    return settle({}, {}, file, simulated).fleet


def test_a_fleet_is_read(tmp_path: Path) -> None:
    fleet = settled(tmp_path, POOL + "  network: {latency_s: 1e-3, bandwidth_bytes_s: 2.5e9}\n  gateways: 2\n")
    assert fleet == FleetConfig(
        pools=(PoolConfig(name="a", count=2, profile="p"),),
        gateways=2,
        network=NetworkConfig(latency_s=0.001, bandwidth_bytes_s=2.5e9),
    )


def test_a_fleet_without_a_model_serves_its_first_profile_but_only_when_simulated(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(POOL)
    assert settle({}, {}, file, simulated=True).config.model == "p"
    assert settle({"model": "m"}, {}, file, simulated=True).config.model == "m"
    with pytest.raises(ConfigError, match="no model"):
        settle({}, {}, file)


def test_without_a_section_there_is_no_fleet(tmp_path: Path) -> None:
    assert settled(tmp_path, "model: m\n") is None


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("fleet:\n  pools:\n    - {name: a, cout: 2, profile: p}", 3, "unknown key 'cout'; did you mean 'count'?"),
        (POOL + "  gateway: 2", 4, "fleet.gateway: unknown key 'gateway'; did you mean 'gateways'?"),
        (POOL + "  network:\n    latency: 1", 5, "did you mean 'latency_s'?"),
        (POOL + "  faults:\n    - at_s: 1\n      kind: crash\n      wroker: 1", 7, "did you mean 'worker'?"),
        (POOL + "  faults:\n    - {at_s: 1, kind: crush}", 5, "which are crash, hang"),
        (POOL + "  faults:\n    - {at_s: -1, kind: crash}", 5, "a time is 0 or more seconds"),
        (POOL + "  faults:\n    - {at_s: 1, kind: crash, worker: a/2}", 5, "did you mean 'a/"),
        ("fleet:\n  pools:\n    - name: a\n      count: many\n      profile: p", 4, "pools[0].count: 'many' is not a"),
        ("fleet:\n  pools:\n    - {name: a, count: 2}", 3, "profile is missing"),
        ("fleet:\n  pools:\n    - {name: a, count: 0, profile: p}", 3, "at least 1 is needed"),
        ("fleet:\n  pools: []", 2, "the fleet is empty"),
        ("model: m\nfleet:", 2, "expected a mapping"),
        ("fleet: 3", 1, "expected a mapping"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("simulated", [True, False])
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, text: str, line: int, message: str, simulated: bool
) -> None:
    with pytest.raises(ConfigError) as caught:
        settled(tmp_path, text, simulated)
    assert f"cluster.yaml:{line}: fleet" in str(caught.value)
    assert message in str(caught.value)


def test_an_unknown_profile_is_named_with_its_line_and_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("fleet:\n  pools:\n    - name: a\n      count: 1\n      profile: qwen3-32b-fp8/h200/tp3\n")
    fleet = settle({}, {}, file, simulated=True).fleet
    assert fleet is not None
    with pytest.raises(ConfigError, match=r"cluster.yaml:5: fleet.pools\[0\].profile: .*did you mean"):
        priced(fleet, file)


def test_the_profile_of_each_pool_is_looked_up() -> None:
    pools = tuple(PoolConfig(name=name, count=1, profile=f"qwen3-32b-fp8/{name}/tp2") for name in ("h100", "h200"))
    found = priced(FleetConfig(pools=pools), Path("nothing.yaml"))
    assert sorted(profile.device for profile in found.values()) == ["h100", "h200"]


@given(st.integers(1, 9), st.integers(0, 9))
def test_the_line_of_a_key_is_where_it_stands(pools: int, wanted: int) -> None:
    """Of a key that does not exist, the line of what would hold it."""
    text = "fleet:\n  pools:\n" + "".join(f"    - name: a{number}\n      count: 1\n" for number in range(pools))
    expected = 4 + 2 * wanted if wanted < pools else 2
    assert line_of(text, f"fleet.pools[{wanted}].count") == expected
