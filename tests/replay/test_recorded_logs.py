"""Logs of real processes, put through fresh nodes: every decision comes out the same, and a changed node is caught."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from jedlik.core.errors import ConfigError
from jedlik.live.recorder import GatewayTurn, LogRecord, read
from jedlik.serve.replay import differences, replay, replayed


@pytest.fixture(scope="module")
def logs() -> Iterator[Path]:
    """A served dozen of requests, recorded with token ids."""
    with tempfile.TemporaryDirectory(prefix="jt-", dir="/tmp") as folder:
        command = [sys.executable, "-m", "jedlik", "serve", "tiny-random", "--engine", "simulated", "--port", "0"]
        extra = ["--speedup", "50", "--event-log", f"{folder}/log", "--event-log-tokens", "--kv-cache-bytes", "128KiB"]
        extra += ["--max-model-len", "256"]
        server = subprocess.Popen([*command, *extra], stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            said: list[str] = []
            for line in server.stderr:
                said.append(line)
                if "ready after" in line:
                    break
            assert "ready after" in said[-1], "".join(said)
            ask(said[-1].split(" on ")[1].split(",")[0])
        finally:
            server.terminate()
            server.communicate(timeout=20)
        yield Path(folder) / "log"


def ask(url: str) -> None:
    def one(number: int) -> int:
        body = {"model": "tiny-random", "prompt": "again and " * (number % 4 * 6) + "x", "max_tokens": 30, "n": 2}
        return httpx.post(f"{url}/v1/completions", json=body, timeout=30).status_code

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(one, range(12))) == [200] * 12


def test_every_decision_comes_out_the_same(logs: Path) -> None:
    recorded = sorted(logs.glob("*.log"))
    assert [path.name.partition("@")[0] for path in recorded] == ["gateway", "planner", "worker-0", "worker-1"]
    assert {path.stat().st_mode & 0o777 for path in logs.iterdir()} == {0o600}
    assert logs.stat().st_mode & 0o777 == 0o700
    for path in recorded:
        assert list(differences(path)) == []
    gateway = list(read(recorded[0], GatewayTurn))
    assert len(gateway) > 100


def test_a_node_of_another_mind_is_caught(logs: Path, tmp_path: Path) -> None:
    log = next(logs.glob("gateway@*.log"))
    made = json.loads(log.with_suffix(".json").read_text())
    made["process"]["config"]["gateway"]["max_in_flight"] = 1
    (tmp_path / "changed.log").write_bytes(log.read_bytes())
    (tmp_path / "changed.json").write_text(json.dumps(made))
    assert next(iter(differences(tmp_path / "changed.log")), None) is not None


def told(log: Path) -> tuple[int, list[str]]:
    """The exit code, and what is said."""
    said: list[str] = []
    return replay(log, said.append), said


def test_it_says_how_much_was_compared(logs: Path, tmp_path: Path) -> None:
    for log in logs.glob("*.log"):
        turns: list[LogRecord[Any, Any]] = list(replayed(log).turns)
        decisions = sum(len(turn.effects) for turn in turns)
        assert told(log) == (0, [f"compared {len(turns):,} events and {decisions:,} decisions: all are the same"])
    log = next(logs.glob("gateway@*.log"))
    (tmp_path / "cut.log").write_bytes(log.read_bytes()[:-5])
    (tmp_path / "cut.json").write_bytes(log.with_suffix(".json").read_bytes())
    code, said = told(tmp_path / "cut.log")
    assert code == 0
    assert said[0].startswith("the process ended while it wrote its last turn")


def test_a_log_of_another_version_says_so(logs: Path, tmp_path: Path) -> None:
    log = next(logs.glob("gateway@*.log"))
    made = json.loads(log.with_suffix(".json").read_text())
    (tmp_path / "old.log").write_bytes(log.read_bytes())
    (tmp_path / "old.json").write_text(json.dumps(made | {"version": "0.0.1"}))
    code, said = told(tmp_path / "old.log")
    assert code == 0
    assert "was recorded by jedlik 0.0.1" in said[0]
    (tmp_path / "old.json").write_text(json.dumps({"version": "0.0.1", "type": "gateway"}))
    with pytest.raises(ConfigError, match="another release wrote it"):
        told(tmp_path / "old.log")


def test_what_cannot_be_replayed_is_refused(logs: Path, tmp_path: Path) -> None:
    """Each with a message that names it; `main` makes exit code 2 of that."""
    log = next(logs.glob("gateway@*.log"))
    header = log.with_suffix(".json").read_bytes()
    worker = next(logs.glob("worker-0@*.log"))

    def a_log(content: bytes, made: bytes | None) -> Path:
        path = tmp_path / "tried.log"
        path.write_bytes(content)
        path.with_suffix(".json").unlink(missing_ok=True)
        if made is not None:
            path.with_suffix(".json").write_bytes(made)
        return path

    data = log.read_bytes()
    for path, what in (
        (log.with_suffix(".json"), f"did you mean {log}"),
        (logs, f"is a folder.*{log.name}"),
        (tmp_path / "nowhere.log", "is not there"),
        (a_log(data, None), "--event-log-tokens"),
    ):
        with pytest.raises(ConfigError, match=what):
            told(path)
    for content, made, what in (
        (b"", header, "is empty"),
        (data[:25], header, "no whole turn"),
        (header, header, "no event log"),
        (worker.read_bytes(), header, "turn [01] is none that this release knows"),
        (data[:200] + bytes([data[200] ^ 1]) + data[201:], header, "is damaged in turn"),
        (data, b"", "does not say how the node was made"),
        (data, header[:-1], "does not say how the node was made"),
        (data, b"\xff" + header, "does not say how the node was made"),
        (data, b"{}", "does not say how the node was made"),
    ):
        with pytest.raises(ConfigError, match=what):
            told(a_log(content, made))
