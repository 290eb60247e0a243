"""What workers hold of one history."""

import msgspec

from jedlik.core.ids import WorkerId
from jedlik.routing.cost import Tiers


class Held(msgspec.Struct, frozen=True):
    """In tokens; workers that have nothing are absent."""

    cached: dict[WorkerId, int]
    """On their devices."""
    shared: dict[WorkerId, int] = msgspec.field(default_factory=dict)
    """Of what counts as cached: tokens that other choices of the same request are about to compute there."""
    alone: bool = False
    """It has to be computed where it is decoded, whatever is cached anywhere."""
    wanted: bool = False
    """The prefix is hot: it is to be held by more workers than it is."""
    tiers: dict[WorkerId, Tiers] = msgspec.field(default_factory=dict)
    """Beyond the device, where that is more. Who is here is in `cached`, too."""

    def depth(self, worker: WorkerId) -> int:
        """In whichever of a worker's tiers."""
        tiers = self.tiers.get(worker)
        return tiers[-1][1] if tiers else self.cached.get(worker, 0)
