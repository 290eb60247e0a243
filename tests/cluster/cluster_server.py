"""A real `jedlik serve` on loopback for tests: started, talked to, hurt and stopped."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from jedlik.net.discovery.contract import Record
from jedlik.net.discovery.local import living, start_ticks

START_S = 90.0
"""What is waited for comes sooner, whatever else the machine has to do: the limit only catches a hang."""
PATIENT = (
    "--gateway.silent-suspect-s", "60", "--gateway.silent-fence-s", "120", "--worker.hung-step-s", "60",
)  # fmt: skip
"""For tests in which nothing is hurt: a busy machine must not make a worker look dead."""
HURT = Path(__file__).parent / "hurt"
"""Its `sitecustomize` lets tests break a worker's simulated engine."""
READY = re.compile(r"ready after .* on http://127\.0\.0\.1:(\d+)")


class Stream:
    """A streamed answer, read piece by piece."""

    def __init__(self, response: httpx.Response) -> None:
        self.worker = response.headers.get("x-jedlik-worker", "")
        self._lines = response.iter_lines()
        self.text = ""
        self.finish: str | None = None
        self.error: object = None
        self.done = False

    def take(self, pieces: int) -> None:
        """Read until so many text pieces have come."""
        for _ in range(pieces):
            if next(self._pieces(), None) is None:
                return

    def rest(self) -> str:
        for _ in self._pieces():
            pass
        return self.text

    def _pieces(self) -> Iterator[str]:
        for line in self._lines:
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                self.done = True
            elif line.startswith("data: "):
                chunk = json.loads(data)
                self.error = chunk.get("error", self.error)
                for choice in chunk.get("choices", []):
                    self.finish = choice["finish_reason"] or self.finish
                    piece = choice["delta"].get("content")
                    if piece:
                        self.text += piece
                        yield piece


class Server:
    """One supervisor and its children."""

    def __init__(
        self, *arguments: str, engine: str = "simulated", home: Path | None = None, run_dir: Path | None = None
    ) -> None:
        """`home`: where compiled kernels are kept, for servers that share them. `run_dir`: another server's."""
        self.run_dir = run_dir or Path(tempfile.mkdtemp(prefix="jt-", dir="/tmp")) / "run"
        self.lines: list[str] = []
        command = [sys.executable, "-m", "jedlik", "serve", "tiny-random", "--engine", engine, "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--run-dir", str(self.run_dir), "--orphan-s", "0", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"JEDLIK_HOME": str(home or self.run_dir.parent / "home"), "PYTHONPATH": path()},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.client = httpx.Client(timeout=30)
        try:
            port = self.wait_for(self._port)
        except BaseException:
            self.clean()
            raise
        self.client.base_url = httpx.URL(f"http://127.0.0.1:{port}")

    def wait_for(self, find: "Callable[[], object]", limit_s: float = START_S) -> str:
        """Poll until `find` says something. Raises AssertionError with the server's output."""
        end = time.monotonic() + limit_s
        while not (found := find()):
            assert time.monotonic() < end, "waited in vain; the server said:\n" + "\n".join(self.lines)
            assert self.process.poll() is None, "the server ended:\n" + "\n".join(self.lines)
            time.sleep(0.02)
        return str(found)

    def body(self, seed: int, tokens: int) -> dict[str, object]:
        message = {"role": "user", "content": f"count {seed}"}
        return {"model": "tiny-random", "seed": seed, "max_tokens": tokens, "messages": [message]}

    def answer(self, seed: int, tokens: int) -> str:
        """The whole text of one answer."""
        reply = self.client.post("/v1/chat/completions", json=self.body(seed, tokens))
        assert reply.status_code == 200, reply.text
        return str(reply.json()["choices"][0]["message"]["content"])

    def opened(self, client: httpx.Client, seed: int, tokens: int) -> Stream:
        """A stream of which the first token has come."""
        body = self.body(seed, tokens) | {"stream": True}
        request = client.build_request("POST", "/v1/chat/completions", json=body)
        response = client.send(request, stream=True)
        assert response.status_code == 200, response.read()
        return Stream(response)

    def records(self) -> dict[str, Record]:
        """Ready workers by name."""
        return {record.name: record for record in living(self.run_dir / "records")}

    def children(self) -> list[int]:
        return children_of(self.process.pid)

    def moved(self) -> list[str]:
        """Lines of answers that had begun at one worker and went on at another."""
        return [line for line in self.lines if re.search(r"migrated .*delivered=[1-9]", line)]

    def pid_of(self, name: str) -> int:
        return next(pid for pid in self.children() if title(pid) == f"jedlik: {name}")

    def ready_workers(self) -> int:
        workers = self.client.get("/health").json()["workers"]
        return sum(worker["health"] == "ok" for worker in workers)

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics: name{label=value,...} to its value."""
        text = self.client.get("/metrics").text
        return {
            f"{s.name}{{{','.join(f'{k}={v}' for k, v in sorted(s.labels.items()))}}}": s.value
            for family in text_string_to_metric_families(text)
            for s in family.samples
        }

    def stop(self, number: signal.Signals = signal.SIGTERM, limit_s: float = START_S) -> int:
        """Stop it; the exit code. What it left behind is removed by `clean`."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(limit_s)
        self._reader.join(5)
        return code

    def clean(self) -> None:
        """End whatever is left."""
        self.client.close()
        if self.process.poll() is None:
            children = self.children()
            self.process.kill()
            for pid in children:
                if title(pid).startswith("jedlik: "):
                    os.kill(pid, signal.SIGKILL)
        self.stop(signal.SIGKILL)
        if self.process.stderr is not None:
            self.process.stderr.close()
        shutil.rmtree(self.run_dir.parent, ignore_errors=True)

    def kill_supervisor(self) -> list[int]:
        """What it leaves."""
        children = self.children()
        self.process.kill()
        self.process.wait()
        return children

    def _port(self) -> str | None:
        """Once it is ready. A server that won't be is told at once."""
        assert not any("crash loop" in line for line in self.lines), "\n".join(self.lines)
        return next((m[1] for m in map(READY.search, self.lines) if m), None)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))


def path() -> str:
    """Where the server's processes look for modules first."""
    return os.pathsep.join(filter(None, (str(HURT), os.environ.get("PYTHONPATH"))))


def children_of(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0 ")
    except OSError:
        return ""


def gone(pids: list[int]) -> bool:
    return all(start_ticks(pid) is None for pid in pids)
