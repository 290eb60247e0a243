"""ServeGen's tables, as Parquet (with the `trace` extra) or CSV with the same columns: one value per row."""

from collections.abc import Iterator
from types import ModuleType
from typing import Annotated, TypeVar

import msgspec

from jedlik.core.errors import ConfigError
from jedlik.sim.workload.reading import Source
from jedlik.sim.workload.renewal import Family

PARQUET = b"PAR1"
Client = int | str
Least0 = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
"""A number from 0 on that is finite."""


class RateRow(msgspec.Struct, frozen=True, kw_only=True):
    """One client's arrivals in one window."""

    model: str
    t_s: Least0
    rate_rps: Least0
    client: Client = "all"
    cv: Least0 = 1.0
    family: Family = "Gamma"
    p1: Least0 | None = None


class LengthRow(msgspec.Struct, frozen=True, kw_only=True):
    """One client's quantiles of one length in one window."""

    model: str
    t_s: Least0
    field: str
    mean: Least0
    p1: Least0
    p5: Least0
    p10: Least0
    p25: Least0
    p50: Least0
    p75: Least0
    p90: Least0
    p95: Least0
    p99: Least0
    client: Client = "all"


R = TypeVar("R", RateRow, LengthRow)


def table(source: Source, kind: type[R], model: str) -> Iterator[R]:
    """The rows of `model`. Raises ConfigError, with the line of a CSV or the row of a Parquet file."""
    if source.head(4) == PARQUET:
        rows, where = parquet_rows(source, kind, model), "row"
    else:
        rows, where = csv_rows(source, kind), "line"
    for number, values in rows:
        try:
            row = msgspec.convert(values, kind, strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{source.path}:{number}: {error}; correct this {where} or remove it") from None
        if row.model == model:
            yield row


def models(source: Source) -> list[str]:
    """Return the models that have rows."""
    if source.head(4) == PARQUET:
        return sorted(set(parquet_columns(source, ["model"])["model"]))
    return sorted({model for _, (model,) in source.columns(("model",))})


def csv_rows(source: Source, kind: type[msgspec.Struct]) -> Iterator[tuple[int, dict[str, object]]]:
    needed, optional = names(kind)
    for line, fields in source.columns(needed, optional):
        yield line, {name: field for name, field in zip((*needed, *optional), fields, strict=True) if field != ""}


def parquet_rows(source: Source, kind: type[msgspec.Struct], model: str) -> Iterator[tuple[int, dict[str, object]]]:
    needed, optional = names(kind)
    read = parquet_columns(source, [*needed, *optional], model)
    for name in needed:
        if name not in read:
            raise ConfigError(f"{source.path}: no column {name!r}; it needs {', '.join(needed)}")
    for number, values in enumerate(zip(*read.values(), strict=True)):
        yield number, {name: value for name, value in zip(read, values, strict=True) if value is not None}


def parquet_columns(source: Source, wanted: list[str], model: str | None = None) -> dict[str, list[str]]:
    """Return those of the columns that are there, of all models or one."""
    reader = parquet()
    try:
        there = [name for name in wanted if name in reader.read_schema(source.path).names]
        filters = None if model is None or "model" not in there else [("model", "=", model)]
        found: dict[str, list[str]] = reader.read_table(source.path, columns=there, filters=filters).to_pydict()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source.path}: cannot be read as Parquet ({error}); fetch it again") from error
    return found


def names(kind: type[msgspec.Struct]) -> tuple[list[str], list[str]]:
    """Columns that must be there, and those that may be."""
    fields = msgspec.structs.fields(kind)
    return [one.name for one in fields if one.required], [one.name for one in fields if not one.required]


def parquet() -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            "Parquet files need pyarrow, which is not installed: pip install 'jedlik[trace]', or give the table as CSV"
        ) from None
    module: ModuleType = pyarrow.parquet
    return module
