"""The faults of a simulation: each kind is begun and ended at its times. Victims that are not named are drawn.

Faults of one process may overlap: it is hung, or cut off, until the last of them is over; the factors of slow ones
multiply, of what its block facts suffer the worst counts. A process that is started again suffers nothing.
"""

from math import prod
from random import Random

from jedlik.core.config import FaultConfig
from jedlik.core.ids import WorkerId
from jedlik.sim.fleet import SimWorkers
from jedlik.sim.heap import Heap
from jedlik.sim.network import FactsFault, Network
from jedlik.sim.process import WorkerProcess
from jedlik.sim.slots import Slot


class Faults:
    """A script of faults against one fleet."""

    def __init__(self, heap: Heap, workers: SimWorkers, network: Network, rng: Random) -> None:
        self._heap, self._workers, self._network, self._rng = heap, workers, network, rng

    def script(self, faults: tuple[FaultConfig, ...]) -> None:
        for fault in faults:
            self._heap.at(fault.at_s, self._begin, fault)

    def _begin(self, fault: FaultConfig) -> None:
        slot = self._victim(fault)
        if slot is None or (slot.process is None and not (fault.kind == "crash" and slot.state)):
            return  # nobody is there to be hurt
        self._workers.act(fault.kind, slot, "" if fault.for_s is None else f"for {fault.for_s:g} s")
        if fault.kind == "crash":
            self._workers.crash(slot)
        elif slot.process is not None:
            self._strike(fault, slot, slot.process)

    def _strike(self, fault: FaultConfig, slot: Slot, process: WorkerProcess) -> None:
        match fault.kind:
            case "drain":
                self._workers.hold(slot, True)
            case "cut":
                self._part(fault, process.card.worker)
                return
            case _:
                process.suffers.append(fault)
                self._suffer(process)
        if fault.for_s is not None:
            self._heap.after(fault.for_s, self._end, fault, slot, process)

    def _end(self, fault: FaultConfig, slot: Slot, process: WorkerProcess) -> None:
        if fault.kind == "drain":
            self._workers.hold(slot, False)
        if slot.process is not process:
            return  # another process serves there now
        self._workers.act(f"{fault.kind} over", slot)
        if fault in process.suffers:
            process.suffers.remove(fault)
            self._suffer(process)

    def _part(self, fault: FaultConfig, worker: WorkerId) -> None:
        """Cut the link between two workers. Where one of them ends, so does the fault: another has links of its own."""
        peer = self._workers.slot(str(fault.peer)).process
        if peer is not None:
            self._network.part(worker, peer.card.worker)
            if fault.for_s is not None:
                self._heap.after(fault.for_s, self._join, fault, worker, peer.card.worker)

    def _join(self, fault: FaultConfig, worker: WorkerId, peer: WorkerId) -> None:
        self._network.join(worker, peer)
        self._workers.act("cut over", self._workers.slot(str(fault.worker)))
        self._workers.carriers.go()

    def _suffer(self, process: WorkerProcess) -> None:
        """Make a process as its faults want it."""
        faults, worker = process.suffers, process.card.worker
        kinds = [fault.kind for fault in faults]
        process.engine.set_factor(prod((fault.factor for fault in faults if fault.kind == "slow"), start=1.0))
        self._network.faults[worker] = _of_facts(faults)
        if "partition" in kinds:
            process.engine.settle()
        for gateway in self._network.gateways:
            if "partition" in kinds:
                self._network.cut(gateway, worker)
            else:
                self._network.heal(gateway, worker)
        if "hang" in kinds:
            process.freeze()
        else:
            process.thaw()

    def _victim(self, fault: FaultConfig) -> Slot | None:
        if fault.worker is not None:
            return self._workers.slot(str(fault.worker))
        up = [slot for slot in self._workers.slots if slot.process is not None]
        return self._rng.choice(up) if up else None


def _of_facts(faults: list[FaultConfig]) -> FactsFault:
    """What block facts suffer."""
    lost = max((fault.share for fault in faults if fault.kind == "lose_facts"), default=0.0)
    duplicated = max((fault.share for fault in faults if fault.kind == "duplicate_facts"), default=0.0)
    delay_s = max((fault.delay_s for fault in faults if fault.kind == "delay_facts"), default=0.0)
    return FactsFault(lost, duplicated, delay_s)
