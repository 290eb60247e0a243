"""`jedlik explain`: why a request went where it went, as tables."""

from collections.abc import Iterable, Sequence
from urllib.parse import quote

import msgspec
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from jedlik.core.errors import ConfigError
from jedlik.core.facts import Candidate, Routed, Shadow
from jedlik.core.sums import float_sum
from jedlik.net.http_client import get, message


class Explained(msgspec.Struct, frozen=True):
    """The answer of /explain/{id}."""

    request_id: str
    decisions: list[Routed]


def explain(request_id: str, url: str, api_key: str | None) -> None:
    """Print the decisions that a server remembers of a request. Raises ConfigError with a remedy."""
    explained = fetch(request_id, url, api_key)
    parts = [part for routed in explained.decisions for part in decision_parts(routed)]
    Console(width=max(Console().width, *map(_width, parts))).print(Group(*parts))


def _width(part: RenderableType) -> int:
    """Return the width that a table needs, else 0. A terminal wraps a long line, but a cell that is cut is lost."""
    wide = Console(width=10_000)
    return wide.measure(part).maximum if isinstance(part, Table) else 0


def fetch(request_id: str, url: str, api_key: str | None) -> Explained:
    """Ask a server for the decisions. Raises ConfigError."""
    reply = get(url, f"/explain/{quote(request_id, safe='')}", api_key)
    if reply.status != 200:
        raise ConfigError(
            f"request {request_id!r}: {message(reply.body)} (give the id of the answer, or its x-request-id header)"
        )
    try:
        return msgspec.json.decode(reply.body, type=Explained)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{url} does not answer as this release of jedlik does: {error}") from error


def decision_parts(routed: Routed) -> list[RenderableType]:
    """Return one decision as parts of a page: a headline, its candidates, the shadow's choice, the outcome."""
    by = f" by {routed.policy}" if routed.policy else ""
    chosen = routed.chosen or "nobody"
    head = f"choice {routed.choice}, attempt {routed.attempt}: {routed.prompt_tokens} prompt tokens to {chosen}{by}"
    lines: list[RenderableType] = [Text(head, style="bold")]
    if routed.deferred:
        how = f"refused ({routed.shed})" if routed.shed else "held back"
        lines.append(Text(f"{how}: {routed.deferred}", style="yellow"))
    if routed.waited_s:
        lines.append(Text(f"after {_s(routed.waited_s)} at the gateway"))
    if routed.failure:
        lines.append(Text(routed.failure, style="red"))
    lines.append(candidates(routed.candidates, routed.chosen, routed.unit, routed.prompt_tokens))
    lines += _places(routed)
    if routed.shadow is not None:
        lines += _shadow(routed.shadow, routed)
    if routed.chosen is not None:
        lines.append(Text(f"time to first token: predicted {_s(routed.predicted_ttft_s)}, {_observed(routed)}"))
    return [*lines, Text()]


def candidates(rows: Sequence[Candidate], chosen: str | None, unit: str, prompt_tokens: int) -> Table:
    """Return a table with one row per worker and one column per term of the cost."""
    names = list(dict.fromkeys(name for row in rows for name in row.parts))
    table = Table(title_justify="left", pad_edge=False, box=None, header_style="dim")
    table.add_column("worker")
    for name in ("cached", f"cost ({unit})" if unit else "cost", *names):
        table.add_column(Text(name), justify="right")
    table.add_column("")
    ordered = sorted(rows, key=lambda row: (row.excluded is not None, row.cost_s, row.worker))
    for row in ordered:
        cost = _number(row.cost_s) if row.parts or row.excluded is None else ""
        parts = [_number(row.parts[name]) if name in row.parts else "" for name in names]
        share = f"{row.cached_tokens} ({row.cached_tokens / max(1, prompt_tokens):.0%})"
        if row.tier_tokens:
            share += f" + {row.tier_tokens} in tiers"
        is_chosen = row.worker == chosen and row.excluded is None
        mark = "chosen" if is_chosen else row.excluded or ""
        if row.remote is not None:
            mark = ", ".join([*([mark] if mark else []), _place(row.remote, row.compute)])
        style = "bold" if is_chosen else "dim" if row.excluded else ""
        table.add_row(Text(row.worker), share, cost, *parts, Text(mark), style=style)
    return table


def _place(worker: str | None, compute: bool) -> str:
    if worker is None:
        return "prefills itself"
    return f"{worker} prefills for it" if compute else f"{worker} sends what it has"


def _places(routed: Routed) -> Iterable[RenderableType]:
    """Yield where the prompt of the chosen worker is prefilled, and the next best place."""
    row = next((row for row in routed.candidates if row.worker == routed.chosen and row.excluded is None), None)
    if row is None or row.instead is None:
        return
    other = row.instead
    terms = ", ".join(f"{name} {_number(value)}" for name, value in other.parts.items() if value)
    places = f"{_place(row.remote, row.compute)}; the next best place: {_place(other.worker, other.compute)}"
    yield Text(f"{places}, {_number(float_sum(other.parts.values()))} s ({terms})")


def _shadow(shadow: Shadow, routed: Routed) -> Iterable[RenderableType]:
    if shadow.failure:
        yield Text(f"shadow: {shadow.failure}", style="red")
        return
    if shadow.chosen is None:
        yield Text(f"shadow {shadow.policy} would have chosen nobody: {shadow.deferred}")
        yield candidates(shadow.candidates, None, shadow.unit, routed.prompt_tokens)
        return
    agreed = "the same" if shadow.chosen == routed.chosen else "another worker"
    yield Text(f"shadow {shadow.policy} would have chosen {shadow.chosen} ({agreed})")
    yield candidates(shadow.candidates, shadow.chosen, shadow.unit, routed.prompt_tokens)


def _observed(routed: Routed) -> str:
    """As a share of the prediction, where both are known."""
    predicted_s, observed_s = routed.predicted_ttft_s, routed.observed_ttft_s
    if observed_s is None:
        return "none observed yet"
    times = f" ({observed_s / predicted_s:.2f} times)" if predicted_s else ""
    return f"observed {_s(observed_s)}{times}"


def _s(seconds: float | None) -> str:
    return "unknown (no step model)" if seconds is None else f"{seconds:.4f} s"


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"
