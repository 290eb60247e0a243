"""A worker process: `python -m jedlik.serve.worker_process CONFIG`. Loads its engine, then shows itself to gateways."""

import asyncio
import os
import sys

from jedlik.core.errors import Bug
from jedlik.core.protocol import Card
from jedlik.live.peers import PeerLinks
from jedlik.live.worker import Reach, WorkerDriver
from jedlik.net.addresses import Address, UnixAddress, parse
from jedlik.net.discovery.announcing import keep_announced
from jedlik.net.discovery.contract import Record
from jedlik.net.discovery.local import fence_of
from jedlik.net.streams import serve
from jedlik.serve.engines import LoadedEngine, Status, kind_of, load, profiled_costs
from jedlik.serve.event_log import make_worker, worker_log
from jedlik.serve.process import ProcessConfig, run
from jedlik.serve.tiers import stores
from jedlik.telemetry.kv import KvCounts
from jedlik.telemetry.log import Log
from jedlik.transfer.agent import Agent, AgentOptions

LEASE_S = 10.0


async def work(told: ProcessConfig, log: Log, stop: asyncio.Event) -> None:
    """Load, serve until told to stop, drain."""
    if kind_of(told.config).schedules_itself:
        raise Bug(f"{told.config.engine} schedules itself: its worker is an adapter, not this process")
    loaded = await _load(told, stop)
    card, costs = loaded.card, profiled_costs(told.config)
    node, recorder = make_worker(told, card, costs), worker_log(told, card, costs)
    agent = _agent(told, loaded, log)
    cluster = told.cluster(card.host)
    reach = Reach(agent, PeerLinks(card, cluster, agent.met))
    driver = WorkerDriver(node, loaded.engine, card, KvCounts(), recorder, reach)
    server, address = await serve(UnixAddress(str(told.run.socket(told.id))), driver.listener, told.cluster_key)
    record = _record(told, card, address, parse(agent.address))
    running = asyncio.create_task(driver.run(), name="driver")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await cluster.discovery.announce(record)
    announcing = asyncio.create_task(keep_announced(cluster.discovery, record), name="announcement")
    _status(told)("")
    cache_mib = card.total_blocks * card.layout.block_bytes >> 20
    tiers = {f"{tier.tier}_blocks": tier.blocks for tier in card.tiers if tier.tier != "object"}
    log.line("ready", engine=card.engine, kv_cache_mib=cache_mib, max_model_len=card.max_model_len, **tiers)
    try:
        await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
        announcing.cancel()
        await cluster.discovery.withdraw(record)
        if not running.done():
            await driver.drain(told.drain_s)
    finally:
        announcing.cancel()
        await cluster.discovery.withdraw(record)
        server.close()
        running.cancel()
        stopping.cancel()
        results = await asyncio.gather(running, stopping, return_exceptions=True)
        loaded.arena.close()
        for name in (told.id, data_name(told)):
            told.run.socket(name).unlink(missing_ok=True)
    if isinstance(results[0], Exception):
        raise results[0]


async def _load(told: ProcessConfig, stop: asyncio.Event) -> LoadedEngine:
    """The engine, loaded beside the loop: a signal meanwhile ends the process at once, there is nothing to lose."""
    loading = asyncio.create_task(asyncio.to_thread(load, told, _status(told)))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        os._exit(0)
    stopping.cancel()
    return await loading


def data_name(told: ProcessConfig) -> str:
    """Of the socket on which other workers' agents are heard."""
    return f"{told.id}.data"


def _agent(told: ProcessConfig, loaded: LoadedEngine, log: Log) -> Agent:
    """What carries this worker's blocks, with the stores that its card names as tiers."""
    options = AgentOptions(listen=f"unix:{told.run.socket(data_name(told))}", key=told.cluster_key)

    def complain(text: str) -> None:
        log.line("blocks", problem=text)

    kept = stores(told.config, told.name, loaded.card, loaded.arena.block_bytes)
    return Agent(loaded.card.worker, loaded.arena, options, kept, loaded.cache, complain)


def _status(told: ProcessConfig) -> Status:
    """Progress for the supervisor to show."""
    return lambda text: told.run.tell(told.name, text)


def _record(told: ProcessConfig, card: Card, address: Address, data: Address) -> Record:
    """What this worker announces."""
    return Record(
        id=told.id,
        name=told.name,
        host=card.host,
        addresses=(address,),
        data=data,
        lease_s=LEASE_S,
        model=told.model_name,
        fence=fence_of(os.getpid()),
    )


if __name__ == "__main__":
    sys.exit(run(work, sys.argv))
