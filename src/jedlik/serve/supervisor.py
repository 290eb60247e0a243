"""The supervisor's object graph: gateway, planner, launcher and control link of one `jedlik serve`, made and run.

What a killed supervisor left running is taken over: the planner is told of it before anything is started.
"""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from jedlik.core.config import Role, ServeConfig
from jedlik.core.effects import ChangeRole
from jedlik.core.events import Adopted, Hold, Scale
from jedlik.core.ids import WorkerId
from jedlik.core.plans import ROLES, Counts
from jedlik.live.adopt import Kept, by_hand, keep_by_hand, turned
from jedlik.live.asked import Desk
from jedlik.live.child import Child
from jedlik.live.control_server import ControlServer
from jedlik.live.launch_local import LocalLauncher, Started
from jedlik.live.planner import PlannerDriver
from jedlik.live.rundir import RunDir
from jedlik.live.running import Running, find
from jedlik.live.supervise import Parts, Supervisor
from jedlik.live.telling import Telling
from jedlik.models.info import knows_chat
from jedlik.serve.children import Children, Server
from jedlik.serve.event_log import planner_log
from jedlik.serve.fleet_planner import counts_of, make_planner
from jedlik.serve.left import Left
from jedlik.serve.listening import reachable, url
from jedlik.serve.places import Spot
from jedlik.serve.settings import loopback

Say = Callable[[str], None]


class Start(NamedTuple):
    """What a server starts with."""

    run: RunDir
    server: Server
    listener: socket.socket
    spots: Sequence[Spot]
    found: Left | None
    """Processes that run already."""


async def supervise(start: Start, say: Say) -> bool:
    """Until a signal; whether that was Ctrl-C before anything was served. Raises ConfigError where it can't start."""
    config, run = start.server.config, start.run
    spots = {spot.place.name: spot for spot in start.spots}
    workers = start.found.workers if start.found is not None else []
    places, initial = [spot.place for spot in start.spots], counts(config, workers)
    made = Children(run, start.server, spots, start.listener.fileno())
    launcher = LocalLauncher(made.worker, run.ready, say, run.said)
    control = ControlServer()

    def change(worker: WorkerId, role: Role) -> None:
        turned(run, worker, role)
        control.change(ChangeRole(worker, role))

    planner = PlannerDriver(
        lambda: (make_planner(config, places, initial), planner_log(config, places, initial)),
        launcher,
        change,
        Telling(say),
        fixed=config.planner.budget is None,
    )

    def ask(event: Scale | Hold) -> None:
        planner.send(event)
        keep_by_hand(run, planner.by_hand())

    desk = Desk(planner.plan, ask, len(spots))
    gateway = Child(
        "gateway",
        made.gateway,
        say,
        served=lambda: run.ready_s("gateway"),
        said=lambda: run.said("gateway"),
        found=running_gateway(start.found),
    )
    for kept in workers:
        adopt(kept, planner, launcher, say)
    for event in by_hand(run):
        if isinstance(event, Scale) or event.name in spots:
            planner.send(event)
    parts, total = Parts(gateway, planner, launcher, control, desk.reply), sum(initial.values())
    supervisor = Supervisor(parts, run, say, config.drain_s, total)
    host, port = start.listener.getsockname()[:2]

    await supervisor.run((reachable(host), port), Ready(start, initial, say), start.listener.close)
    return supervisor.interrupted


class Ready:
    """Says once where the server is, with a request to paste, then how many workers serve as they come."""

    def __init__(self, start: Start, initial: Counts, say: Say) -> None:
        self._start = start
        self._initial = initial
        self._say = say
        self._said = False

    def __call__(self, seconds: float, serving: int) -> None:
        staffed = staff(self._initial)
        if self._said:
            self._say(f"{serving} of {staffed} serve after {seconds:.1f} s")
            return
        self._said = True
        many = staffed if serving >= sum(self._initial.values()) else f"{serving} of {staffed} so far"
        host, port = self._start.listener.getsockname()[:2]
        where = f"{self._start.server.model_name} on {url(host, port)}, {many}"
        self._say(f"ready after {seconds:.1f} s: {where}. Try:\n{curl(self._start.server, port)}")


def counts(config: ServeConfig, workers: Sequence[Kept]) -> Counts:
    """At start: as configured; where others decide and some run already, those."""
    if workers and config.planner.acts == "on":
        return counts_of([kept.role for kept in workers])
    return counts_of(config.roles)


def adopt(kept: Kept, planner: PlannerDriver, launcher: LocalLauncher, say: Say) -> None:
    """Keep a worker that runs."""
    process = find(kept.pid, kept.started)
    if process is None:
        return  # it has ended meanwhile
    say(f"{kept.name} runs already (pid {kept.pid}): taken over")
    planner.send(Adopted(kept.name, kept.start, kept.role))
    launcher.keep(kept.name, kept.start, Started(process, WorkerId(kept.id)))


def running_gateway(found: Left | None) -> Running | None:
    """That is kept from there on; None: one is started."""
    if found is None or found.gateway is None:
        return None
    return find(found.gateway.pid, found.gateway.started)


def curl(server: Server, port: int) -> str:
    """A request to paste."""
    config = server.config
    host = config.host if loopback(config.host) else socket.gethostname()
    key = " -H 'authorization: Bearer YOUR_KEY'" if config.api_keys else ""
    chat = knows_chat(Path(server.model_path))
    question = '"messages": [{"role": "user", "content": "Hello!"}]' if chat else '"prompt": "The sky is"'
    body = f'{{"model": "{server.model_name}", "stream": true, "max_tokens": 200, {question}}}'
    path = "chat/completions" if chat else "completions"
    return f"curl -N {url(host, port)}/v1/{path} -H 'content-type: application/json'{key} -d '{body}'"


def staff(counts: Counts) -> str:
    """How many workers do what: 2 workers; 3 workers (1 prefill, 2 decode)."""
    total = sum(counts.values())
    workers = f"{total} worker{'s' * (total != 1)}"
    kinds = [f"{counts[role]} {role}" for role in ROLES if counts.get(role)]
    return workers if not counts.get("prefill") and not counts.get("decode") else f"{workers} ({', '.join(kinds)})"
