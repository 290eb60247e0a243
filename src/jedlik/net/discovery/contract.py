"""The contract of discovery and fencing: who serves, where they listen, and whether one of them is certainly dead.

`docs/contracts/discovery.md` has the rules that an implementation keeps, and how to add one. Discovery knows who
announced itself; it never knows that somebody is dead, for a lease also ends when a network does. A fencer knows that.
"""

from typing import Literal, Protocol

import msgspec

from jedlik.net.addresses import Address, UnixAddress

RENEWALS = 3
"""Whoever announces renews so many times within a lease: one renewal may be lost, or late."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One incarnation of a process that accepts connections."""

    id: str
    """The key, `name@incarnation`: it is never used again."""
    name: str
    kind: Literal["worker", "gateway"] = "worker"
    host: str
    """The host's identity: processes with the same one can reach each other's unix sockets and memory."""
    addresses: tuple[Address, ...]
    """The addresses where it listens, the best one first."""
    data: Address | None = None
    """The address of what transfers a worker's blocks; None: it transfers none."""
    lease_s: float
    """The seconds for which the record holds unless it is renewed."""
    pool: str = ""
    model: str = ""
    """The name by which clients ask for a worker's model."""
    fence: str = ""
    """The text by which this host's fencer ends exactly this process. Nobody else reads it."""

    def address_from(self, host: str) -> Address | None:
        """Return the best address that processes of a host can reach; None: there is none."""
        reachable = (one for one in self.addresses if host == self.host or not isinstance(one, UnixAddress))
        return next(reachable, None)


class Joined(msgspec.Struct, frozen=True):
    """A record that was not there is there."""

    record: Record


class Changed(msgspec.Struct, frozen=True):
    """A record has other addresses than before; it is the same process."""

    record: Record


class Left(msgspec.Struct, frozen=True):
    """A record is withdrawn, or its lease has ended. The process may live, and connections to it stay."""

    record: Record


class Away(msgspec.Struct, frozen=True):
    """Nothing can be learnt until `Back`. Everything that was learnt before still holds."""

    reason: str


class Back(msgspec.Struct, frozen=True):
    """The differences that were missed have been given: the records are complete again."""


Change = Joined | Changed | Left | Away | Back


class Watch(Protocol):
    """One watcher's view, as differences: first all records there are (`Joined`), then changes."""

    def take(self) -> list[Change]:
        """Return what has changed since the last call, in order; returns at once, and raises nothing.

        Of one call's changes those that left come before those that joined, each by id.
        """

    async def changed(self) -> None:
        """Wait until `take` may have something to give, which it need not."""

    def refresh(self) -> None:
        """Learn anew soon: a connection broke, or somebody spoke of a worker that is not known here yet."""


class Discovery(Protocol):
    """The place where processes of one server announce themselves and find each other.

    Made inside a running loop.
    """

    async def announce(self, record: Record) -> None:
        """Make a record visible, or replace the one of the same id. Raises PeerError where that can't be done now.

        A new incarnation takes the place of an older one of the same name.
        """

    async def renew(self, record: Record) -> None:
        """Extend a record's lease. Raises PeerError where that can't be done; it is announced again then."""

    async def withdraw(self, record: Record) -> None:
        """Remove a record. Nothing happens where it is not there, or a newer incarnation has taken the name."""

    def watch(self) -> Watch:
        """Return a new watcher, whose first `take` has seen nothing yet."""


Verdict = Literal["dead", "unknown", "refused"]
"""`dead`: certainly, no thread of the process is left. `unknown`: it may live. `refused`: nothing was tried, because
the process belongs to somebody else."""


class Fencer(Protocol):
    """A fencer ends workers of one host, or of one cluster, and knows that they are dead."""

    async def end(self, record: Record) -> Verdict:
        """End a worker at once, and return what is certain some seconds later at the latest."""

    async def look(self, record: Record) -> Verdict:
        """Return `dead` where that is certain, else `unknown`. Ends nothing."""
