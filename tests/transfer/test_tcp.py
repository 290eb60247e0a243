"""Streams between hosts: proof of the key, damage on the way, nonsense from strangers."""

import socket
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from carrying import HANG_S, Carrying, move

from jedlik.core.errors import PeerError
from jedlik.core.ids import Handle, WorkerId
from jedlik.core.moves import Location, Revoke
from jedlik.transfer.connection import (
    PIECE_BYTES,
    AgentConnection,
    NobodyListens,
    NotWelcome,
    dial,
    receive_blocks,
    send_blocks,
)
from jedlik.transfer.messages import AgentCard, AgentHello, Get, Landed, Put, TrialPut
from jedlik.transfer.processes import this_process

Make = Callable[..., Carrying]
DEVICE = Location("device")
ANYWHERE = "tcp:127.0.0.1:0"


def test_authenticated_streams_carry_blocks(carrying: Make) -> None:
    left, right = (carrying(name, paths=["tcp"], listen=ANYWHERE, key=b"secret") for name in ("left@1", "right@1"))
    left.fill(1)
    left.meet(right)
    left.agent.perform(move(1, DEVICE, [1, 2, 9], Location("device", right.worker), [3, 4, 5], ticket=1))
    assert (left.ear.moved(1).cause, left.ear.moved(1).path) == ("", "tcp")
    assert np.array_equal(right.device[[3, 4, 5]], left.device[[1, 2, 9]])


def test_another_key_gets_nowhere(carrying: Make) -> None:
    left, right = (carrying(f"{key}@1", paths=["tcp"], listen=ANYWHERE, key=key.encode()) for key in ("one", "two"))
    left.meet(right)
    left.agent.perform(move(1, DEVICE, [1], Location("device", right.worker), [1], deadline_s=0.2, ticket=1))
    assert left.ear.moved(1).cause == "late"
    with pytest.raises(PeerError):
        dial(right.agent.address, b"one", hello(right))


def hello(one: Carrying) -> AgentHello:
    """Of a stranger who knows how to behave."""
    card = AgentCard(
        worker=WorkerId("stranger@1"),
        process=this_process(),
        block_bytes=one.arena.block_bytes,
        device_blocks=1,
        host_blocks=1,
    )
    return AgentHello(card, one.worker, "data")


@pytest.fixture
def wire(carrying: Make) -> tuple[AgentConnection, Carrying]:
    one = carrying("one@1", paths=["tcp"])
    return dial(one.agent.address, b"", hello(one))[0], one


@pytest.mark.parametrize("blocks", [[32], [-1], [0, 99]])
def test_blocks_that_are_not_there_cut_the_stream(wire: tuple[AgentConnection, Carrying], blocks: list[int]) -> None:
    stream, one = wire
    for request in (Put(Handle(1), "device", blocks), Get("device", blocks)):
        again, _ = dial(one.agent.address, b"", hello(one))
        again.send(request)
        with pytest.raises(PeerError):
            again.receive_answer()
        again.close()
    stream.close()


def test_damaged_bytes_are_told_as_corrupt(wire: tuple[AgentConnection, Carrying]) -> None:
    stream, one = wire
    size = one.arena.block_bytes
    stream.send(Put(Handle(1), "device", [4, 5, 6]))
    good = [memoryview(bytes([i]) * size) for i in range(3)]
    sent: list[bytes] = []
    send_blocks(Recorder(sent), good)  # type: ignore[arg-type]
    damaged = bytearray(b"".join(sent))
    damaged[size + 7] ^= 1
    stream.send_bytes(memoryview(damaged))
    assert stream.receive_answer() == Landed(1, "corrupt")
    stream.close()


class Recorder:
    """Keeps what is sent."""

    def __init__(self, sent: list[bytes]) -> None:
        self._sent = sent

    def send_bytes(self, *views: memoryview) -> None:
        self._sent.extend(map(bytes, views))


def test_a_revocation_cuts_the_stream_that_is_landing(wire: tuple[AgentConnection, Carrying]) -> None:
    stream, one = wire
    size = one.arena.block_bytes
    stream.send(Put(Handle(1), "device", [4, 5, 6]))
    stream.send_bytes(memoryview(b"\x01" * size))
    until = time.monotonic() + HANG_S
    while not one.device[4].any() and time.monotonic() < until:
        time.sleep(0.001)  # it is landing: nobody tells when a part of a block has come
    one.agent.perform(Revoke(WorkerId("stranger@1"), [Handle(1)]))
    assert one.ear.revoked("stranger@1").tickets == [1]
    one.device[:] = 0
    with pytest.raises(PeerError):
        send_until_cut(stream, memoryview(b"\x02" * size))
    assert not one.device.any()
    stream.close()


def send_until_cut(stream: AgentConnection, view: memoryview) -> None:
    for _ in range(1000):
        stream.send_bytes(view)
    stream.receive_answer()


def test_a_second_data_stream_ends_the_first(wire: tuple[AgentConnection, Carrying]) -> None:
    stream, one = wire
    second, _ = dial(one.agent.address, b"", hello(one))
    with pytest.raises(PeerError):
        stream.receive_answer()
    second.send(TrialPut(2, 10))
    send_blocks(second, [memoryview(b"0123456789")] * 2)
    assert second.receive_answer() == Landed(2)
    second.close()
    stream.close()


def test_nonsense_is_cut_and_nobody_listens_is_told_apart(
    carrying: Make, wire: tuple[AgentConnection, Carrying]
) -> None:
    stream, one = wire
    stream.send_bytes(memoryview(b"\xff\xff\xff\xff"))
    with pytest.raises(PeerError):
        stream.receive_answer()
    stream.close()
    with pytest.raises(NotWelcome, match="is not here"):
        dial(one.agent.address, b"", AgentHello(hello(one).card, WorkerId("one@0"), "data"))
    one.agent.close()
    with pytest.raises(NobodyListens):
        dial(one.agent.address, b"", hello(one))


@pytest.mark.parametrize("size", [1, 4096, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES - 5])
@pytest.mark.parametrize("count", [0, 1, 70])
def test_blocks_of_any_size_arrive_with_their_sums(size: int, count: int) -> None:
    left, right = socket.socketpair()
    sent = np.random.default_rng(size).integers(0, 256, (count, size), np.uint8)
    got = np.zeros_like(sent)
    sending = threading.Thread(target=send_blocks, args=(AgentConnection(left), [row.data for row in sent]))
    sending.start()
    assert receive_blocks(AgentConnection(right), [row.data for row in got]) == (count, "")
    sending.join(HANG_S)
    assert np.array_equal(sent, got)
    left.close()
    right.close()
