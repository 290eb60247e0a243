"""A record kept announced, over any discovery: renewed within its lease, and announced again after any loss."""

import asyncio

from jedlik.core.errors import PeerError
from jedlik.net.discovery.contract import RENEWALS, Discovery, Record

RETRY_S = 1.0


async def keep_announced(discovery: Discovery, record: Record) -> None:
    """Renew a record that has been announced, until cancelled."""
    every_s = record.lease_s / RENEWALS
    keep, delay_s = discovery.renew, every_s
    while True:
        await asyncio.sleep(delay_s)
        try:
            await keep(record)
        except PeerError:
            keep, delay_s = discovery.announce, min(RETRY_S, every_s)
        else:
            keep, delay_s = discovery.renew, every_s
