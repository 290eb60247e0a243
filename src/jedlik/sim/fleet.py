"""The workers of a simulation as processes: started, connected, drained, ended as a planner wants; and their GPU time.

Whether one that ended is started again is not decided here: the planner is told, and its effects come back as calls.
"""

from collections.abc import Callable

from jedlik.core.config import Role
from jedlik.core.errors import Bug
from jedlik.core.events import Adopted, ClientJoined, Drain, Hold, MemberEnded, MemberReady, PlannerEvent, WorkerJoined
from jedlik.core.ids import WorkerId
from jedlik.core.plans import Cause
from jedlik.core.sums import float_sum
from jedlik.nodes.worker.node import WorkerNode
from jedlik.scheduling.step_plan import LIVE, Leaps
from jedlik.sim.carrier import Carriers
from jedlik.sim.heap import Heap
from jedlik.sim.names import SharedNames
from jedlik.sim.network import Network
from jedlik.sim.outcome import Action, Staff
from jedlik.sim.process import WorkerProcess, World
from jedlik.sim.setup import Setup
from jedlik.sim.slots import Slot, card_of, slots_of

LONGEST_LEAP = 4096
LEAPS = Leaps(LONGEST_LEAP, 1 << 40)
STEPPING = Leaps(LIVE.longest, 1 << 40)


class SimWorkers:
    """The places of all workers."""

    def __init__(self, heap: Heap, world: World, setup: Setup, network: Network, names: SharedNames) -> None:
        self._heap, self._world, self._setup, self._network, self._names = heap, world, setup, network, names
        self.slots = slots_of(setup)
        self.carriers = Carriers(heap, setup.network, network.reaches, world.witness)
        self.tell: Callable[[PlannerEvent], None] = _nobody
        """The planner, once there is one."""
        self._by_name = {slot.name: slot for slot in self.slots}
        self._by_id: dict[WorkerId, Slot] = {}
        self.actions: list[Action] = []
        self.staff: list[Staff] = []
        """How many were in which state, whenever that changed."""
        self.handled = 0
        """Events of processes that ended."""

    def boot(self) -> None:
        """Every pool's first workers are up and connected when the simulation begins."""
        for slot, begins in zip(self.slots, self._setup.begins, strict=True):
            if begins:
                slot.since_s, slot.starts = self._heap.now, 1
                self.tell(Adopted(slot.name, slot.starts, slot.role))
                self._bring_up(slot)
        self._counted()

    def index(self, worker: WorkerId) -> int:
        return self._by_id[worker].index

    def slot(self, name: str) -> Slot:
        return self._by_name[name]

    def act(self, kind: str, slot: Slot, detail: str = "") -> None:
        self.actions.append(Action(self._heap.now, kind, slot.name, detail))

    # --- what planners want ---

    def launch(self, name: str, start: int, role: Role) -> None:
        """Start a process at a free place; it serves after the pool's start-up time."""
        slot = self._by_name[name]
        if slot.since_s is not None or start <= slot.starts:
            raise Bug(f"start {start} at {name}, where start {slot.starts} is {slot.state or 'over'}")
        slot.since_s, slot.starts, slot.role, slot.state, slot.fell = self._heap.now, start, role, "starting", False
        self.act("start", slot, "" if role == slot.pool.role else role)
        self._counted()
        self._heap.after(slot.pool.start_s, self._serve, slot, start)

    def retire(self, name: str, start: int) -> None:
        """Have it finish what it has and leave."""
        slot = self._current(name, start)
        if slot is not None and slot.process is not None:
            slot.state = "draining"
            if not slot.no_start:
                self.act("retire", slot)
            self._counted()
            slot.process.send(Drain())

    def end(self, name: str, start: int) -> None:
        """End it now, starting or not."""
        slot = self._current(name, start)
        if slot is not None:
            self._cut(slot, "ended", "asked")

    def change_role(self, worker: WorkerId, role: Role) -> None:
        """Note that a worker takes another role."""
        slot = self._by_id[worker]
        slot.role = role
        self.act("role", slot, role)
        self._counted()

    # --- what happens to them ---

    def crash(self, slot: Slot) -> None:
        """End the process of a slot, starting or not."""
        self._cut(slot, "crashed", "crashed")

    def hold(self, slot: Slot, no_start: bool) -> None:
        """A fault wants no worker there, or lets one be there again."""
        slot.no_start = no_start
        self.tell(Hold(slot.name, no_start))

    def worker_left(self, worker: WorkerId, reason: str, cause: Cause) -> None:
        """A process is gone: it drained, was kicked or killed. Its connections close behind what it sent."""
        slot = self._by_id.get(worker)
        if slot is None or slot.process is None or slot.process.card.worker != worker:
            return
        process, slot.process = slot.process, None
        process.end()
        self.carriers.remove(worker)
        self.handled += process.handled
        slot.busy_s += process.engine.busy_s
        self.act("end", slot, reason)
        self._network.close(worker, reason)
        self._free(slot, cause)

    def gpu_s(self) -> float:
        """GPU time used by all so far."""
        return float_sum(up_s * slot.pool.gpus for up_s, slot in zip(self.up_s(), self.slots, strict=True))

    def up_s(self) -> list[float]:
        """Return the seconds that there was a worker at each place, from order to end."""
        now = self._heap.now
        return [s.up_s + (0.0 if s.since_s is None else now - s.since_s) for s in self.slots]

    def busy_s(self) -> list[float]:
        """Return the seconds that each worker's engine has worked on steps that ended."""
        return [slot.busy_s + (slot.process.engine.busy_s if slot.process else 0.0) for slot in self.slots]

    def _current(self, name: str, start: int) -> Slot | None:
        """Where that start is still going on."""
        slot = self._by_name[name]
        return slot if slot.starts == start and slot.since_s is not None else None

    def _cut(self, slot: Slot, reason: str, cause: Cause) -> None:
        if slot.process is not None:
            slot.process.engine.settle()
        if slot.process is not None:
            self.worker_left(slot.process.card.worker, reason, cause)
        elif slot.since_s is not None:
            self.act("end", slot, reason)
            self._free(slot, cause)

    def _free(self, slot: Slot, cause: Cause) -> None:
        if slot.since_s is not None:
            slot.up_s += self._heap.now - slot.since_s
            slot.since_s = None
        slot.state, slot.fell = "", cause != "asked" or slot.no_start
        self._counted()
        self.tell(MemberEnded(slot.name, slot.starts, cause))

    def _serve(self, slot: Slot, start: int) -> None:
        if slot.starts != start or slot.state != "starting":
            return  # it ended before it was up
        self.act("serve", slot)
        self._bring_up(slot)
        self._counted()

    def _bring_up(self, slot: Slot) -> None:
        card = card_of(self._setup, slot)
        leaps = STEPPING if self._setup.step_by_step else LEAPS
        node = WorkerNode(
            card, slot.pool.worker or self._setup.worker, self._names, leaps, slot.pool.model.costs, slot.role
        )
        process = WorkerProcess(self._heap, self._world, card, node, slot.pool.model, self.carriers)
        slot.process, slot.state = process, "serving"
        self._by_id[card.worker] = slot
        self._network.workers[card.worker] = process
        for word in self.carriers.first_words(card):
            process.send(word)
        for name, gateway in self._network.gateways.items():
            gateway.send(WorkerJoined(card))
            process.send(ClientJoined(name))
        self.tell(MemberReady(slot.name, slot.starts, card.worker))

    def _counted(self) -> None:
        """Of one moment the last counts stay."""
        now = self._heap.now
        counts: dict[str, dict[str, int]] = {"serving": {}, "starting": {}, "draining": {}}
        for slot in self.slots:
            if slot.state:
                of = counts[slot.state]
                of[slot.role] = of.get(slot.role, 0) + 1
        if self.staff and self.staff[-1].at_s == now:
            self.staff.pop()
        self.staff.append(Staff(now, **counts))


def _nobody(event: PlannerEvent) -> None:
    raise Bug(f"{event}, and nobody plans")
