"""What clients of a gateway ask of the planner, answered by the supervisor: the plan, counts by hand, places held.

Refused, with the remedy: more workers than there is room for, workers that could serve nobody, places that there are
not. Fewer than the floor are raised to it; the answer says what holds now.
"""

from collections.abc import Callable, Mapping

import msgspec

from jedlik.core.config import Role
from jedlik.core.events import Hold, Scale
from jedlik.live.control import Answer, Ask, Plan

KEYS: dict[Role, str] = {"prefill": "prefill", "decode": "decode", "both": "workers"}


class Desk:
    """Answers at once: what is asked for is begun when the answer is given."""

    def __init__(self, plan: Callable[[], dict[str, object]], send: Callable[[Scale | Hold], None], most: int) -> None:
        self._plan = plan
        self._send = send
        self._most = most

    def reply(self, ask: Ask) -> Answer:
        question = ask.question
        if isinstance(question, Plan):
            return Answer(ask.number, msgspec.json.encode(self._plan()))
        refusal = self._counts(question.counts) if isinstance(question, Scale) else self._place(question)
        if refusal is not None:
            return Answer(ask.number, refusal=refusal)
        self._send(question)
        return Answer(ask.number, msgspec.json.encode(self._now(question)))

    def _counts(self, counts: Mapping[Role, int] | None) -> str | None:
        wanted = {role: count for role, count in (counts or {}).items() if count}
        total = sum(wanted.values())
        if total > self._most:
            return (
                f"{total} workers are asked for and there is room for {self._most} on this server: start it with "
                f"--planner.budget {total} (and --planner.mode off, for it to scale by hand only)"
            )
        if set(wanted) == {"prefill"}:
            return "prefill workers alone answer nothing: ask for decode workers, too"
        if set(wanted) == {"decode"}:
            return "decode workers alone have nobody who prefills: ask for prefill workers, too"
        return None

    def _place(self, hold: Hold) -> str | None:
        names = [str(name) for name in self._members()]
        if hold.name in names:
            return None
        return f"there is no place {hold.name[:100]!r}; there are {', '.join(names[:16])}"

    def _now(self, question: Scale | Hold) -> dict[str, object]:
        plan = self._plan()
        if isinstance(question, Hold):
            return {"hold" if question.active else "release": question.name, "state": self._members()[question.name]}
        wanted = plan["wanted"]
        assert isinstance(wanted, dict)
        counts = {KEYS[role]: count for role, count in wanted.items() if count}
        return {"auto": question.counts is None, "mode": plan["mode"], "wanted": counts}

    def _members(self) -> dict[str, object]:
        members = self._plan()["members"]
        assert isinstance(members, list)
        return {str(member["name"]): member["state"] for member in members}
