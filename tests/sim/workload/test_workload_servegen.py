"""ServeGen: rates in the mean, windows, lengths from quantiles, from CSV as from Parquet."""

import csv
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from jedlik.core.errors import ConfigError
from jedlik.sim.workload.load import load
from jedlik.sim.workload.offered import Offered
from jedlik.sim.workload.options import WorkloadOptions

AS_IT_IS = WorkloadOptions()
RATES: list[dict[str, Any]] = [
    {"model": "m", "client": 0, "t_s": 0, "rate_rps": 2.0, "cv": 1.0, "family": "Gamma", "p1": 1.0, "p2": 0.5},
    {"model": "m", "client": 0, "t_s": 1200, "rate_rps": 6.0, "cv": 2.0, "family": "Weibull", "p1": 0.6, "p2": 0.1},
    {"model": "m", "client": 1, "t_s": 600, "rate_rps": 1.0, "cv": 0.5, "family": "Gamma", "p1": 4.0, "p2": 0.25},
    {"model": "other", "client": 0, "t_s": 0, "rate_rps": 50.0, "cv": 1.0, "family": "Gamma", "p1": 1.0, "p2": 1.0},
]
LEVELS = ("p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99")


def lengths(client: int, field: str, values: list[float], mean: float, t_s: int = 0) -> dict[str, Any]:
    return {
        "model": "m",
        "client": client,
        "t_s": t_s,
        "field": field,
        "mean": mean,
        **dict(zip(LEVELS, values, strict=True)),
    }


LENGTHS = [
    lengths(0, "input_tokens", [100.0] * 9, 150.0),
    lengths(0, "output_tokens", [10.0] * 9, 10.0),
    lengths(0, "output_tokens", [20.0] * 9, 20.0, t_s=1200),
]


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def rates(tmp_path: Path) -> Path:
    as_csv(tmp_path / "lengths.csv", LENGTHS)
    return as_csv(tmp_path / "rates.csv", RATES)


def offers(spec: str, seed: int = 0, options: WorkloadOptions = AS_IT_IS) -> list[Offered]:
    return list(load(spec, options, seed).arrivals())


def test_each_window_has_its_clients_rate(rates: Path) -> None:
    found = offers(f"servegen:rates={rates},model=m,duration=1800,scale=3")
    assert [o.at_s for o in found] == sorted(o.at_s for o in found)
    for start_s, rate in ((0, 6.0), (600, 3.0), (1200, 18.0)):
        count = sum(1 for offered in found if start_s <= offered.at_s < start_s + 600)
        assert count / 600 == pytest.approx(rate, rel=0.1)


def test_time_starts_at_the_chosen_moment(rates: Path) -> None:
    found = offers(f"servegen:rates={rates},model=m,start=1300,duration=200")
    assert found[0].at_s < 5
    assert 150 < found[-1].at_s < 200
    assert {offered.output_tokens for offered in found} == {20}
    assert found == offers(f"servegen:rates={rates},model=m,start=1300,duration=200")
    assert found != offers(f"servegen:rates={rates},model=m,start=1300,duration=200", seed=1)


def test_lengths_keep_the_recorded_mean_and_are_borrowed_where_there_are_none(rates: Path) -> None:
    found = offers(f"servegen:rates={rates},model=m,duration=1200,scale=20")
    assert {offered.output_tokens for offered in found} == {10}
    assert min(offered.text.tokens for offered in found) == 100
    assert fmean(offered.text.tokens for offered in found) == pytest.approx(150, rel=0.1)
    assert any(offered.at_s >= 600 for offered in found)  # client 1, who has no lengths


def test_prompts_share_nothing(rates: Path) -> None:
    ids = [piece for offered in offers(f"servegen:rates={rates},model=m") for piece in offered.text.ids]
    assert len(ids) == len(set(ids)) > 500


def test_parquet_gives_what_csv_gives(rates: Path, tmp_path: Path) -> None:
    packed = as_parquet(tmp_path / "rates.parquet", RATES)
    as_parquet(tmp_path / "lengths.parquet", LENGTHS)
    assert offers(f"servegen:rates={packed},model=m") == offers(f"servegen:rates={rates},model=m")


def test_a_multimodal_prompt_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    rows = [
        lengths(0, "text_tokens", [100.0] * 9, 100.0), lengths(0, "image_tokens", [30.0] * 9, 30.0),
        lengths(0, "output_tokens", [5.0] * 9, 5.0),
    ]  # fmt: skip
    as_csv(tmp_path / "lengths.csv", rows)
    found = offers(f"servegen:rates={as_csv(tmp_path / 'rates.csv', RATES)},model=m")
    assert {offered.text.tokens for offered in found} == {130}


def test_totals_without_clients_will_do(tmp_path: Path) -> None:
    totals = as_csv(tmp_path / "totals.csv", [{"model": "m", "t_s": 0, "rate_rps": 5.0}])
    found = offers(f"servegen:rates={totals},input=100,output=10")
    assert len(found) / 600 == pytest.approx(5, rel=0.1)
    assert {(offered.text.tokens, offered.output_tokens) for offered in found} == {(100, 10)}


def test_a_file_of_rates_by_itself_is_enough_if_it_has_one_model(rates: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rates of m, other; say which"):
        load(str(rates), AS_IT_IS, 0)
    one = as_csv(tmp_path / "one_rates.csv", RATES[:3])
    as_csv(tmp_path / "one_lengths.csv", LENGTHS)
    options = WorkloadOptions(start_s=1200.0, duration_s=100.0, limit=300)
    assert offers(str(one), options=options) == offers(
        f"servegen:rates={one},start=1200,duration=100", options=WorkloadOptions(limit=300)
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rate_rps": -1}, ":3: Expected `float` >= 0"),
        ({"rate_rps": "inf"}, ":3: Expected `float` <= 1000000000000000.0"),
        ({"family": "Normal"}, ":3: Invalid enum value 'Normal'"),
        ({"t_s": ""}, ":3: Object missing required field `t_s`"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    rows = [RATES[0], {**RATES[1], **change}]
    with pytest.raises(ConfigError) as caught:
        load(f"servegen:rates={as_csv(tmp_path / 'rates.csv', rows)},input=1,output=1", AS_IT_IS, 0)
    assert "rates.csv" in str(caught.value)
    assert told.lower() in str(caught.value).lower()


def test_what_is_missing_is_named(rates: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model n has no rates from .* one of the models m, other"):
        load(f"servegen:rates={rates},model=n", AS_IT_IS, 0)
    with pytest.raises(ConfigError, match="no lengths of prompts and answers for model other"):
        load(f"servegen:rates={rates},model=other", AS_IT_IS, 0)
    (tmp_path / "lengths.csv").unlink()
    with pytest.raises(ConfigError, match=r"no lengths beside .* give lengths=FILE, or input= and output="):
        load(f"servegen:rates={rates},model=m", AS_IT_IS, 0)
    short = as_parquet(tmp_path / "short.parquet", [{"model": "m", "t_s": 0}])
    with pytest.raises(ConfigError, match="no column 'rate_rps'"):
        load(f"servegen:rates={short},model=m,input=1,output=1", AS_IT_IS, 0)
    short.write_bytes(short.read_bytes()[:40])
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        load(str(short), AS_IT_IS, 0)


def test_without_pyarrow_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = as_parquet(tmp_path / "rates.parquet", RATES)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"pip install 'jedlik\[trace\]'"):
        load(str(packed), AS_IT_IS, 0)
