"""What goes wrong in a simulation: each kind of fault, begun and ended at its times. Victims nobody named are drawn."""

from random import Random

from jedlik.core.config import FaultConfig
from jedlik.core.events import Drain
from jedlik.sim.fleet import Slot, Workers
from jedlik.sim.heap import Heap
from jedlik.sim.network import FactsFault, Network
from jedlik.sim.process import WorkerProcess


class Faults:
    """A script of faults against one fleet."""

    def __init__(self, heap: Heap, workers: Workers, network: Network, rng: Random) -> None:
        self._heap, self._workers, self._network, self._rng = heap, workers, network, rng

    def script(self, faults: tuple[FaultConfig, ...]) -> None:
        for fault in faults:
            self._heap.at(fault.at_s, self._begin, fault)

    def _begin(self, fault: FaultConfig) -> None:
        slot = self._victim(fault)
        if slot is None or slot.process is None:
            return  # nobody is there to be hurt
        self._workers.act(fault.kind, slot, "" if fault.for_s is None else f"for {fault.for_s:g} s")
        process = slot.process
        match fault.kind:
            case "crash":
                self._workers.left(process.card.worker, "crashed")
            case "hang":
                process.freeze()
            case "slow":
                process.engine.set_factor(fault.factor)
            case "drain":
                slot.wanted = False
                process.send(Drain())
            case "partition":
                for gateway in self._network.gateways:
                    self._network.cut(gateway, process.card.worker)
            case "lose_facts" | "duplicate_facts" | "delay_facts":
                self._disturb(fault, process)
        if fault.for_s is not None:
            self._heap.after(fault.for_s, self._end, fault, slot, process)

    def _end(self, fault: FaultConfig, slot: Slot, process: WorkerProcess) -> None:
        if fault.kind == "drain":
            self._workers.start(slot)
        if slot.process is not process:
            return  # another process serves there now
        self._workers.act(f"{fault.kind} over", slot)
        match fault.kind:
            case "hang":
                process.thaw()
            case "slow":
                process.engine.set_factor(1.0)
            case "partition":
                for gateway in self._network.gateways:
                    self._network.heal(gateway, process.card.worker)
            case "lose_facts" | "duplicate_facts" | "delay_facts":
                self._network.faults.pop(process.card.worker, None)

    def _disturb(self, fault: FaultConfig, process: WorkerProcess) -> None:
        suffered = self._network.faults.setdefault(process.card.worker, FactsFault())
        if fault.kind == "lose_facts":
            suffered.lost = fault.share
        elif fault.kind == "duplicate_facts":
            suffered.duplicated = fault.share
        else:
            suffered.delay_s = fault.delay_s

    def _victim(self, fault: FaultConfig) -> Slot | None:
        if fault.worker is not None:
            return self._workers.slot(str(fault.worker))
        up = [slot for slot in self._workers.slots if slot.process is not None]
        return self._rng.choice(up) if up else None
