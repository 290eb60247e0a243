"""`jedlik doctor --links`: what moving blocks costs, as the workers of a running server measured it, or as tried here.

A server is found by its port or run directory, among those of this user on this host. Where none runs, two processes
are started that try every way there could be between workers of this host.
"""

import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.table import Table

from jedlik.core.errors import JedlikError, PeerError
from jedlik.core.ids import WorkerId
from jedlik.core.moves import CarrierReport, PathCosts, PathsMeasured
from jedlik.live.rundir import RunDir
from jedlik.net.discovery.contract import Record
from jedlik.net.discovery.local import living
from jedlik.serve.process import ProcessConfig
from jedlik.transfer.agent import Agent, AgentOptions
from jedlik.transfer.arena import Arena
from jedlik.transfer.connection import dial
from jedlik.transfer.hosts import HostFacts, local_facts
from jedlik.transfer.messages import AgentCard, AgentHello, AgentReport, Look
from jedlik.transfer.processes import this_process

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

TRIED = (
    ("shm", "shm", False),
    ("tcp, unix socket", "tcp", False),
    ("tcp, loopback", "tcp", True),
    ("nixl", "nixl", False),
)
"""The trials: a name for people, the transport, and whether on TCP."""
MEANING = "a move takes: its blocks times the time for each block, plus its bytes at this speed"
BLOCK_BYTES = 1 << 20
TRIAL_S = 30.0


def show_links(run_dir: str | None, port: int) -> bool:
    """Print the matrix; whether there was anything to show."""
    console = Console()
    found = find_server(run_dir, port)
    if found is None:
        console.print(f"no server of yours on port {port}: trying the ways between two processes of this host")
        console.print(_facts_line(local_facts()))
        console.print(_tried_table(dict(trials())))
        return True
    process, records = found
    console.print(f"as measured by the {len(records)} workers of the server in {process.run_dir}")
    answers = {record.id: ask(record, process.cluster_key) for record in records}
    for worker, answer in sorted(answers.items()):
        console.print(f"{worker}: {answer}" if isinstance(answer, str) else f"{worker}: {_facts_line(answer.facts)}")
    console.print(matrix({worker: its for worker, its in answers.items() if isinstance(its, AgentReport)}))
    return any(isinstance(answer, AgentReport) for answer in answers.values())


def find_server(run_dir: str | None, port: int) -> tuple[ProcessConfig, list[Record]] | None:
    """A server's gateway configuration and its workers that carry blocks, by name."""
    folders = [Path(run_dir)] if run_dir else sorted(Path(tempfile.gettempdir()).glob(f"jedlik-{os.getuid()}-*"))
    for folder in folders:
        try:
            process = msgspec.json.decode(RunDir(folder).config("gateway").read_bytes(), type=ProcessConfig)
        except (OSError, msgspec.MsgspecError):
            continue
        records = [record for record in living(RunDir(folder).records) if record.data is not None]
        if records and (run_dir or process.config.port == port):
            return process, records
    return None


def ask(record: Record, key: bytes) -> AgentReport | str:
    """Return what a worker knows of its transports, or why it does not say."""
    card = AgentCard(worker=WorkerId("doctor"), process=this_process(), block_bytes=0, device_blocks=0, host_blocks=0)
    try:
        wire, _ = dial(str(record.data), key, AgentHello(card, WorkerId(record.id), "look"))
        try:
            wire.send(Look())
            answer = wire.receive_answer()
        finally:
            wire.close()
    except PeerError as error:
        return str(error)
    return answer if isinstance(answer, AgentReport) else f"answered {type(answer).__name__}"


def matrix(answers: dict[str, AgentReport]) -> Table:
    """Return a table of costs from (rows) to (columns); a worker to itself: its tiers."""
    table = Table(title=MEANING, caption="-: nothing is known")
    table.add_column("from")
    for worker in answers:
        table.add_column(f"to {worker}")
    for worker, answer in answers.items():
        cells = []
        for other in answers:
            known = [each.costs for each in answer.transports if each.to == ("" if other == worker else other)]
            cells.append("\n".join(f"{costs.path} {figures(costs)}" for costs in known) or "-")
        table.add_row(worker, *cells)
    return table


def figures(costs: PathCosts) -> str:
    """Return costs as people read them."""
    if not costs.open:
        return "closed: it failed lately"
    speed = f"{1e-9 / costs.byte_s:.2f} GB/s" if costs.byte_s else "-"
    return f"{costs.block_s * 1e6:.1f} us a block, {speed}"


def trials() -> Iterator[tuple[str, PathCosts | str]]:
    """Every way between this process and another one: its costs, or why there is none."""
    for name, path, on_tcp in TRIED:
        try:
            yield name, tried(path, on_tcp=on_tcp)
        except JedlikError as error:
            yield name, str(error)


def tried(path: str, *, on_tcp: bool) -> PathCosts:
    """Raises PeerError where it does not work."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        other = context.Process(target=_other, args=(theirs, folder, path, on_tcp), daemon=True)
        with _without_interrupts():  # a Ctrl-C reaches the whole group: we end the other process by its pipe
            other.start()
        theirs.close()
        try:
            address = ours.recv()
            return _measured(folder, path, address, on_tcp=on_tcp)
        except EOFError as error:
            raise PeerError("the other process ended early") from error
        finally:
            ours.close()
            other.join()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started meanwhile ignore SIGINT for as long as they live."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _measured(folder: str, path: str, address: str, *, on_tcp: bool) -> PathCosts:
    reports: multiprocessing.SimpleQueue[CarrierReport] = multiprocessing.SimpleQueue()
    agent, arena = _made("one@1", folder, path, on_tcp=on_tcp)
    try:
        agent.start(reports.put)
        if agent.without_nixl:
            raise PeerError(agent.without_nixl)
        agent.met(WorkerId("two@1"), address)
        while True:
            heard = reports.get()
            if isinstance(heard, PathsMeasured) and (not heard.paths or heard.paths[0].path == path):
                break
        if not heard.paths:
            raise PeerError("does not work between processes of this host")
        return heard.paths[0]
    finally:
        agent.close()
        arena.close()
        reports.close()


def _other(pipe: "Connection", folder: str, path: str, on_tcp: bool) -> None:
    agent, arena = _made("two@1", folder, path, on_tcp=on_tcp)
    agent.start(lambda report: None)
    with contextlib.suppress(EOFError, OSError):  # the trial is over
        pipe.send(agent.address)
        pipe.recv()
    agent.close()
    arena.close()


def _made(worker: str, folder: str, path: str, *, on_tcp: bool) -> tuple[Agent, Arena]:
    arena = Arena(BLOCK_BYTES, 1, 1)
    listen = "tcp:127.0.0.1:0" if on_tcp else f"unix:{folder}/{worker}"
    return Agent(WorkerId(worker), arena, AgentOptions(listen=listen, key=b"trial", paths=(path,))), arena


def _tried_table(results: dict[str, PathCosts | str]) -> Table:
    table = Table(title="between two processes of this host", caption=MEANING)
    for column in ("way", "costs"):
        table.add_column(column)
    for name, result in results.items():
        table.add_row(name, result if isinstance(result, str) else figures(result))
    return table


def _facts_line(facts: HostFacts) -> str:
    nics = ", ".join(f"{nic.name} ({_node(nic.numa_node)}, {_speed(nic.speed_mbit_s)})" for nic in facts.nics)
    gpus = ", ".join(
        f"{gpu.name} ({_node(gpu.numa_node)}, NVLink to {list(gpu.nvlink_peers) or 'none'})" for gpu in facts.gpus
    )
    return (
        f"host {facts.host[:8]}, NUMA nodes {list(facts.numa_nodes)}, network {nics or 'none'}, GPUs {gpus or 'none'}"
    )


def _node(number: int | None) -> str:
    return "NUMA node unknown" if number is None else f"NUMA node {number}"


def _speed(mbit_s: int | None) -> str:
    return "speed unknown" if mbit_s is None else f"{mbit_s} Mbit/s"
