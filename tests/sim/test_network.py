"""Workers that ask workers: connected by the first message, both ends told of the other's end, links that are cut."""

from random import Random
from typing import cast

import msgspec

from jedlik.core.config import NetworkConfig
from jedlik.core.effects import ToClient, ToWorkerEffect
from jedlik.core.events import ClientJoined, ClientLost, FromClient, FromWorker, WorkerEvent, WorkerLost
from jedlik.core.ids import GatewayId, Handle, WorkerId
from jedlik.core.protocol import Ack, Cancel, Pushed, Reserve
from jedlik.sim.heap import Heap
from jedlik.sim.network import Network
from jedlik.sim.process import WorkerProcess
from worker_world import make_card

P, D, E = WorkerId("p@1"), WorkerId("d@1"), WorkerId("e@1")
AS_CLIENT = GatewayId(D)
CANCEL, RESERVE, ACK = Cancel([Handle(1)]), Reserve(Handle(1), 0, [1, 2]), Ack([Handle(1)], [1])
PUSHED = Pushed(Handle(1), 4)
LATENCY_S = 0.01


class Worker:
    """Remembers what it is sent."""

    def __init__(self, heap: Heap, worker: WorkerId) -> None:
        self._heap = heap
        self.card = msgspec.structs.replace(make_card(), worker=worker)
        self.heard: list[tuple[float, WorkerEvent]] = []

    def send(self, event: WorkerEvent) -> None:
        self.heard.append((round(self._heap.now, 3), event))


class Lan:
    """Three workers. Messages take 10 ms."""

    def __init__(self) -> None:
        self.heap = Heap()
        self.network = Network(self.heap, NetworkConfig(latency_s=LATENCY_S), Random(0))
        self.workers = {worker: Worker(self.heap, worker) for worker in (P, D, E)}
        for worker, process in self.workers.items():
            self.network.workers[worker] = cast(WorkerProcess, process)

    def ask(self, worker: WorkerId, asked: WorkerId, *messages: Cancel | Reserve | Ack) -> None:
        for message in messages:
            self.network.ask(cast(WorkerProcess, self.workers[worker]), ToWorkerEffect(asked, message))

    def heard(self, worker: WorkerId) -> list[tuple[float, WorkerEvent]]:
        self.heap.run()
        return self.workers[worker].heard


def test_the_first_message_connects() -> None:
    lan = Lan()
    lan.ask(D, P, CANCEL, RESERVE)
    expected = [ClientJoined(AS_CLIENT, follows=False), *(FromClient(AS_CLIENT, m) for m in (CANCEL, RESERVE))]
    assert lan.heard(P) == [(LATENCY_S, event) for event in expected]
    lan.network.to_client(P, ToClient(AS_CLIENT, PUSHED))
    assert lan.heard(D) == [(2 * LATENCY_S, FromWorker(P, PUSHED))]
    assert lan.heard(E) == []


def test_who_is_not_up_is_lost() -> None:
    lan = Lan()
    lan.network.close(P, "crashed")
    lan.ask(D, P, CANCEL)
    assert lan.heard(D) == [(LATENCY_S, WorkerLost(P, "this worker is gone"))]


def test_the_asked_one_ends() -> None:
    lan = Lan()
    lan.ask(D, P, CANCEL)
    lan.heap.run()
    lan.network.to_client(P, ToClient(AS_CLIENT, PUSHED))
    lan.network.close(P, "crashed")
    assert [event for _, event in lan.heard(D)] == [FromWorker(P, PUSHED), WorkerLost(P, "crashed")]
    assert lan.heard(E) == []
    assert not any(known for _, known in lan.network._askers.values())


def test_the_asking_one_ends() -> None:
    lan = Lan()
    lan.ask(D, P, CANCEL)
    lan.network.close(D, "crashed")
    assert [event for _, event in lan.heard(P)][1:] == [FromClient(AS_CLIENT, CANCEL), ClientLost(AS_CLIENT)]
    lan.network.to_client(P, ToClient(AS_CLIENT, PUSHED))
    assert lan.heard(D) == []
    assert not lan.network._askers


def test_a_cut_link_holds_both_ways_what_is_said_until_it_heals() -> None:
    lan = Lan()
    lan.network.part(D, P)
    lan.network.part(P, D)
    lan.ask(D, P, CANCEL)
    lan.ask(P, D, ACK)
    lan.ask(D, E, CANCEL)
    assert not lan.network.reaches(D, P)
    assert not lan.network.reaches(P, D)
    assert lan.network.reaches(D, E)
    assert lan.heard(P) == lan.heard(D) == []
    assert len(lan.heard(E)) == 2
    lan.network.join(D, P)
    assert lan.heard(P) == []
    lan.network.join(D, P)
    expected = [ClientJoined(AS_CLIENT, follows=False), FromClient(AS_CLIENT, CANCEL)]
    assert [event for _, event in lan.heard(P)] == expected
    assert len(lan.heard(D)) == 2
    assert lan.network.reaches(P, D)
    lan.network.join(D, P)  # once more than it was cut
    assert lan.network.reaches(P, D)


def test_what_a_cut_holds_is_lost_with_either_end() -> None:
    lan = Lan()
    lan.network.part(D, P)
    lan.ask(D, P, CANCEL)
    lan.network.close(P, "crashed")
    assert [event for _, event in lan.heard(D)] == [WorkerLost(P, "crashed")]
    lan.network.join(D, P)
    assert not lan.network._cut
    assert not lan.network._parted
