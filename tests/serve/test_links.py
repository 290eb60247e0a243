"""`jedlik doctor --links`: the matrix, and the trial where no server runs."""

from pathlib import Path

import pytest
from rich.console import Console

from jedlik.core.errors import PeerError
from jedlik.core.ids import WorkerId
from jedlik.core.moves import PathCosts
from jedlik.net.addresses import parse
from jedlik.net.discovery.contract import Record
from jedlik.serve.links import ask, figures, find_server, matrix, tried
from jedlik.transfer.agent import Agent, AgentOptions
from jedlik.transfer.arena import Arena
from jedlik.transfer.hosts import local_facts
from jedlik.transfer.messages import AgentReport, TransportCosts


def test_the_matrix_shows_pairs_and_own_tiers() -> None:
    facts = local_facts()
    shm, host = PathCosts("shm", 2e-6, 1e-10), PathCosts("host", 1e-6, 5e-11)
    answers = {
        "a@1": AgentReport(
            facts, [TransportCosts("", host), TransportCosts("b@1", shm), TransportCosts("gone@1", shm)]
        ),
        "b@1": AgentReport(facts, [TransportCosts("a@1", PathCosts("tcp", 0.0, 0.0, open=False))]),
    }
    console = Console(width=120)
    with console.capture() as shown:
        console.print(matrix(answers))
    rows = [line.split("│")[1:-1] for line in shown.get().splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["a@1", "host 1.0 us a block, 20.00 GB/s", "shm 2.0 us a block, 10.00 GB/s"],
        ["b@1", "tcp closed: it failed lately", "-"],
    ]
    assert figures(shm) == "2.0 us a block, 10.00 GB/s"


def test_no_server_is_found_where_none_runs(tmp_path: Path) -> None:
    assert find_server(str(tmp_path), 8000) is None
    assert find_server(None, 1) is None


def record(key: str, data: str) -> Record:
    return Record(id=key, name="w", host="here", addresses=(), data=parse(data), lease_s=10.0)


def test_a_worker_answers_who_only_looks(tmp_path: Path) -> None:
    arena = Arena(4096, 1, 1)
    agent = Agent(WorkerId("w@1"), arena, AgentOptions(listen=f"unix:{tmp_path}/w", key=b"key"))
    told: list[object] = []
    agent.start(told.append)
    answer = ask(record("w@1", agent.address), b"key")
    other = ask(record("w@0", agent.address), b"key")
    agent.close()
    arena.close()
    assert isinstance(answer, AgentReport)
    assert all(link.to == "" for link in answer.transports)
    assert other == "w@0 is not here; w@1 is"
    assert "cannot connect" in str(ask(record("w@1", agent.address), b"key"))


@pytest.mark.parametrize(("path", "on_tcp"), [("shm", False), ("tcp", True)])
def test_ways_are_tried_between_two_processes(path: str, on_tcp: bool) -> None:
    costs = tried(path, on_tcp=on_tcp)
    assert costs.path == path
    assert costs.byte_s > 0


def test_a_way_that_is_none_says_so() -> None:
    with pytest.raises(PeerError, match="does not work"):
        tried("pigeon", on_tcp=False)
