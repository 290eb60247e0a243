"""The messages that agents send to each other, as msgpack by schema.

Every connection begins with AgentHello and Welcome (or Refused). The agent that connected asks; the other side answers
in order. `transfer/connection` frames the messages and sends blocks as raw bytes where a message announces them.
"""

from typing import Literal

import msgspec

from jedlik.core.ids import Handle as Ticket
from jedlik.core.ids import WorkerId
from jedlik.core.moves import Cause, PathCosts
from jedlik.transfer.arena import ArenaReference
from jedlik.transfer.hosts import HostFacts
from jedlik.transfer.processes import ProcessName

SCHEMA = 1
MemoryTier = Literal["device", "host"]


class NixlCard(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The address of an arena, for peers that reach it through NIXL."""

    name: str
    metadata: bytes
    backend: str
    device_at: int
    """The address of the first device block in the owner's process."""
    host_at: int


class AgentCard(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """An agent's identity, and the memory that it has."""

    schema: int = SCHEMA
    worker: WorkerId
    process: ProcessName
    block_bytes: int
    device_blocks: int
    host_blocks: int
    arena: ArenaReference | None = None
    """The arena that processes of the same host may map; None: it is not shared."""
    nixl: NixlCard | None = None


class AgentHello(msgspec.Struct, frozen=True, tag="hello"):
    """The first message of the agent that connects."""

    card: AgentCard
    to: WorkerId
    """The worker that the sender believes to talk to."""
    use: Literal["control", "data", "look"]
    """The connection's use; look: the sender has no blocks and only asks for the costs of transports."""


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The answer to a hello that is accepted."""

    card: AgentCard
    stopped: list[Ticket]
    """Tickets for which the sender of this message takes no writes of the other agent."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The answer to a hello that is not accepted."""

    cause: Cause
    reason: str


class StopWriting(msgspec.Struct, frozen=True, tag="stop"):
    """Write no more for these tickets; answer WritesStopped when that is certain."""

    tickets: list[Ticket]


class WritesStopped(msgspec.Struct, frozen=True, tag="stopped"):
    """The answer to StopWriting: nothing more is written for these tickets."""

    tickets: list[Ticket]


class Put(msgspec.Struct, frozen=True, tag="put"):
    """Blocks to be written follow this message, checksummed (`connection.send_blocks`)."""

    ticket: Ticket
    tier: MemoryTier
    blocks: list[int]


class Landed(msgspec.Struct, frozen=True, tag="landed"):
    """The answer to Put and to TrialPut."""

    blocks: int
    """The number of the first blocks that are in place, verified."""
    cause: Cause = ""


class Get(msgspec.Struct, frozen=True, tag="get"):
    """Send these blocks of your memory."""

    tier: MemoryTier
    blocks: list[int]


class Sent(msgspec.Struct, frozen=True, tag="sent"):
    """The answer to Get: the blocks follow, checksummed (`connection.send_blocks`)."""


class TrialPut(msgspec.Struct, frozen=True, tag="trial"):
    """Blocks that measure a transport follow, checksummed; the receiver discards them and answers Landed."""

    parts: int
    part_bytes: int


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Tell what transfers cost and where you run; answered by AgentReport."""


class TransportCosts(msgspec.Struct, frozen=True, array_like=True):
    """The costs of one of an agent's transports."""

    to: str
    """The worker at the other end; "": the transport is between tiers of the agent's own worker."""
    costs: PathCosts


class AgentReport(msgspec.Struct, frozen=True, tag="links"):
    """The answer to Look."""

    facts: HostFacts
    transports: list[TransportCosts]


ToAgent = AgentHello | StopWriting | Put | Get | TrialPut | Look
FromAgent = Welcome | Refused | WritesStopped | Landed | Sent | AgentReport
