"""Formats figures for people: three digits, units, and a dash where there is nothing."""

NOTHING = "–"


def seconds(value: float | None) -> str:
    """Return a duration, such as 12.3 ms, 1.23 s or 4 min 10 s."""
    if value is None:
        return NOTHING
    if value >= 120:
        minutes, rest = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
    return f"{number(value)} s" if value >= 1 or value == 0 else f"{number(value * 1000)} ms"


def moment(at_s: float) -> str:
    """Return a time on the simulation's clock: 1:15:00.0 is an hour and a quarter."""
    tenths = round(at_s * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest / 10:04.1f}"


def share(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    """Return a number with three digits, thousands apart."""
    if value is None:
        return NOTHING
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3g}"
