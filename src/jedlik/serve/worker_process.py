"""A worker process: `python -m jedlik.serve.worker_process CONFIG`. Loads its engine, then shows itself to gateways."""

import asyncio
import os
import sys

from jedlik.core.errors import Bug
from jedlik.core.protocol import Card
from jedlik.live.peers import PeerLinks
from jedlik.live.worker import WorkerDriver, WorkerTransfers
from jedlik.net.addresses import Address, UnixAddress, parse
from jedlik.net.discovery.announcing import keep_announced
from jedlik.net.discovery.contract import Record
from jedlik.net.discovery.local import fence_of
from jedlik.net.streams import serve
from jedlik.serve.engines import LoadedEngine, Status, kind_of, load, profiled_costs
from jedlik.serve.event_log import worker_log
from jedlik.serve.nodes import make_worker
from jedlik.serve.process import ProcessConfig, run
from jedlik.serve.tiers import stores
from jedlik.telemetry.kv import KvCounts
from jedlik.telemetry.log import Log
from jedlik.transfer.agent import Agent, AgentOptions

LEASE_S = 10.0


async def work(process: ProcessConfig, log: Log, stop: asyncio.Event) -> None:
    """Load, serve until a signal, drain."""
    if kind_of(process.config).schedules_itself:
        raise Bug(f"{process.config.engine} schedules itself: its worker is an adapter, not this process")
    loaded = await _load(process, stop)
    card, costs = loaded.card, profiled_costs(process.config)
    node, recorder = make_worker(process, card, costs), worker_log(process, card, costs)
    agent = _agent(process, loaded, log)
    cluster = process.cluster(card.host)
    blocks = WorkerTransfers(agent, PeerLinks(card, cluster, agent.met))
    driver = WorkerDriver(node, loaded.engine, card, KvCounts(), recorder, blocks)
    server, address = await serve(
        UnixAddress(str(process.run.socket(process.id))), driver.listener, process.cluster_key
    )
    record = _record(process, card, address, parse(agent.address))
    running = asyncio.create_task(driver.run(), name="driver")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await cluster.discovery.announce(record)
    announcing = asyncio.create_task(keep_announced(cluster.discovery, record), name="announcement")
    _status(process)("")
    cache_mib = card.total_blocks * card.layout.block_bytes >> 20
    tiers = {f"{tier.tier}_blocks": tier.blocks for tier in card.tiers if tier.tier != "object"}
    log.line("ready", engine=card.engine, kv_cache_mib=cache_mib, max_model_len=card.max_model_len, **tiers)
    try:
        await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
        announcing.cancel()
        await cluster.discovery.withdraw(record)
        if not running.done():
            await driver.drain(process.drain_s)
    finally:
        announcing.cancel()
        await cluster.discovery.withdraw(record)
        server.close()
        running.cancel()
        stopping.cancel()
        results = await asyncio.gather(running, stopping, return_exceptions=True)
        loaded.arena.close()
        for name in (process.id, data_name(process)):
            process.run.socket(name).unlink(missing_ok=True)
    if isinstance(results[0], Exception):
        raise results[0]


async def _load(process: ProcessConfig, stop: asyncio.Event) -> LoadedEngine:
    """The engine, loaded beside the loop: a signal meanwhile ends the process at once, there is nothing to lose."""
    loading = asyncio.create_task(asyncio.to_thread(load, process, _status(process)))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        os._exit(0)
    stopping.cancel()
    return await loading


def data_name(process: ProcessConfig) -> str:
    """Return the name of the socket where other workers' agents connect."""
    return f"{process.id}.data"


def _agent(process: ProcessConfig, loaded: LoadedEngine, log: Log) -> Agent:
    """What carries this worker's blocks, with the stores that its card names as tiers."""
    options = AgentOptions(listen=f"unix:{process.run.socket(data_name(process))}", key=process.cluster_key)

    def complain(text: str) -> None:
        log.line("blocks", problem=text)

    block_stores = stores(process.config, process.name, loaded.card, loaded.arena.block_bytes)
    return Agent(loaded.card.worker, loaded.arena, options, block_stores, loaded.cache, complain)


def _status(process: ProcessConfig) -> Status:
    """Progress for the supervisor to show."""
    return lambda text: process.run.set_status(process.name, text)


def _record(process: ProcessConfig, card: Card, address: Address, data: Address) -> Record:
    """What this worker announces."""
    return Record(
        id=process.id,
        name=process.name,
        host=card.host,
        addresses=(address,),
        data=data,
        lease_s=LEASE_S,
        pool=process.pool,
        model=process.model_name,
        fence=fence_of(os.getpid()),
    )


if __name__ == "__main__":
    sys.exit(run(work, sys.argv))
