"""Logs of real processes, put through fresh nodes: every decision comes out the same, and a changed node is caught."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from jedlik.cli.event_log import differences
from jedlik.core.errors import ConfigError
from jedlik.live.recorder import GatewayTurn, read


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
                if line.startswith("ready after"):
                    break
            assert said[-1].startswith("ready after"), "".join(said)
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
    assert next(differences(tmp_path / "changed.log"), None) is not None


def test_a_log_without_its_header_is_refused(logs: Path, tmp_path: Path) -> None:
    (tmp_path / "gateway.log").write_bytes(b"")
    with pytest.raises(ConfigError, match="--event-log-tokens"):
        list(differences(tmp_path / "gateway.log"))
