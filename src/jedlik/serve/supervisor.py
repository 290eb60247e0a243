"""The supervisor's object graph: gateway, planner, launcher and control link of one `jedlik serve`, made and run.

What a killed supervisor left running is taken over: the planner is told of it before anything is started.
"""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from jedlik.core.config import Role, ServeConfig
from jedlik.core.events import Adopted, Hold, Scale
from jedlik.core.ids import WorkerId
from jedlik.core.plans import ROLES, Counts
from jedlik.live.adopt import ChildProcess, by_hand, save_by_hand, save_role
from jedlik.live.child import Child
from jedlik.live.control import ControlServer, PlannerService
from jedlik.live.launch import LocalLauncher, StartedWorker
from jedlik.live.planner import FleetNews, PlannerDriver
from jedlik.live.rundir import RunDir
from jedlik.live.running import Running, find
from jedlik.live.supervise import Parts, Supervisor
from jedlik.models.info import knows_chat
from jedlik.serve.children import Children, Server
from jedlik.serve.event_log import planner_log
from jedlik.serve.listening import reachable, url
from jedlik.serve.nodes import counts_of, make_planner
from jedlik.serve.orphans import Orphans
from jedlik.serve.places import WorkerPlace
from jedlik.serve.settings import loopback

Say = Callable[[str], None]


class Startup(msgspec.Struct, frozen=True, kw_only=True):
    """The things that a server starts with."""

    run: RunDir
    server: Server
    listener: socket.socket
    places: Sequence[WorkerPlace]
    found: Orphans | None
    """Processes that run already."""


async def supervise(startup: Startup, say: Say) -> bool:
    """Serve until a signal. Return whether that was Ctrl-C before anything was served.

    Raises ConfigError where the server can't start.
    """
    config, run = startup.server.config, startup.run
    worker_places = {one.place.name: one for one in startup.places}
    workers = startup.found.workers if startup.found is not None else []
    places, initial = [one.place for one in startup.places], counts(config, workers)
    children = Children(run, startup.server, worker_places, startup.listener.fileno())
    launcher = LocalLauncher(children.worker, run.ready, say, run.last_words)
    control = ControlServer()

    def change(worker: WorkerId, role: Role) -> None:
        save_role(run, worker, role)
        control.change(worker, role)

    planner = PlannerDriver(
        lambda: (make_planner(config, places, initial), planner_log(config, places, initial)),
        launcher,
        change,
        FleetNews(say),
        fixed=config.planner.budget is None,
    )

    def ask(event: Scale | Hold) -> None:
        planner.send(event)
        save_by_hand(run, planner.by_hand())

    gateway = Child(
        "gateway",
        children.gateway,
        say,
        served=lambda: run.ready_s("gateway"),
        last_words=lambda: run.last_words("gateway"),
        found=running_gateway(startup.found),
    )
    for worker in workers:
        adopt(worker, planner, launcher, say)
    for event in by_hand(run):
        if isinstance(event, Scale) or event.name in worker_places:
            planner.send(event)
    service = PlannerService(planner.plan, ask, len(places))
    parts, total = Parts(gateway, planner, launcher, control, service.reply), sum(initial.values())
    supervisor = Supervisor(parts, run, say, config.drain_s, total)
    host, port = startup.listener.getsockname()[:2]

    await supervisor.run((reachable(host), port), Ready(startup, initial, say), startup.listener.close)
    return supervisor.interrupted


class Ready:
    """Says once where the server is, with a request to paste, then how many workers serve as they come."""

    def __init__(self, startup: Startup, initial: Counts, say: Say) -> None:
        self._startup = startup
        self._initial = initial
        self._say = say
        self._announced = False

    def __call__(self, seconds: float, serving: int) -> None:
        staffed = staff(self._initial)
        if self._announced:
            self._say(f"{serving} of {staffed} serve after {seconds:.1f} s")
            return
        self._announced = True
        many = staffed if serving >= sum(self._initial.values()) else f"{serving} of {staffed} so far"
        host, port = self._startup.listener.getsockname()[:2]
        where = f"{', '.join(self._startup.server.models)} on {url(host, port)}, {many}"
        self._say(f"ready after {seconds:.1f} s: {where}. Try:\n{curl(self._startup.server, port)}")


def counts(config: ServeConfig, workers: Sequence[ChildProcess]) -> Counts:
    """Return the workers by role at start: as configured; where a planner decides and some run already, those."""
    if workers and config.planner.acts == "on":
        return counts_of([worker.role for worker in workers])
    return counts_of(config.roles)


def adopt(worker: ChildProcess, planner: PlannerDriver, launcher: LocalLauncher, say: Say) -> None:
    """Keep a worker that runs."""
    process = find(worker.pid, worker.started)
    if process is None:
        return  # it has ended meanwhile
    say(f"{worker.name} runs already (pid {worker.pid}): taken over")
    planner.send(Adopted(worker.name, worker.start, worker.role))
    launcher.keep(worker.name, worker.start, StartedWorker(process, WorkerId(worker.id)))


def running_gateway(found: Orphans | None) -> Running | None:
    """Return the gateway that runs already; None: one is started."""
    if found is None or found.gateway is None:
        return None
    return find(found.gateway.pid, found.gateway.started)


def curl(server: Server, port: int) -> str:
    """Return a request to paste."""
    config, pool = server.config, server.pools[0]
    host = config.host if loopback(config.host) else socket.gethostname()
    key = " -H 'authorization: Bearer YOUR_KEY'" if config.api_keys else ""
    chat = knows_chat(Path(pool.model_path))
    question = '"messages": [{"role": "user", "content": "Hello!"}]' if chat else '"prompt": "The sky is"'
    body = f'{{"model": "{pool.model_name}", "stream": true, "max_tokens": 200, {question}}}'
    path = "chat/completions" if chat else "completions"
    return f"curl -N {url(host, port)}/v1/{path} -H 'content-type: application/json'{key} -d '{body}'"


def staff(counts: Counts) -> str:
    """Return counts in words, such as `2 workers`, or `3 workers (1 prefill, 2 decode)`."""
    total = sum(counts.values())
    workers = f"{total} worker{'s' * (total != 1)}"
    kinds = [f"{counts[role]} {role}" for role in ROLES if counts.get(role)]
    return workers if not counts.get("prefill") and not counts.get("decode") else f"{workers} ({', '.join(kinds)})"
