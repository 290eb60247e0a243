"""Clients that ask a test server again and again, and what became of it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from cluster_server import Server


class Load:
    """So many clients, each with one streamed answer at a time."""

    def __init__(self, server: Server, tokens: int, pause_s: float) -> None:
        self._server = server
        self._tokens = tokens
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.whole = 0
        self.bad: list[str] = []

    def add(self, clients: int) -> None:
        for _ in range(clients):
            thread = threading.Thread(target=self._ask, args=(1000 * len(self._threads),))
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        """Every answer that was begun ends first."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _ask(self, seed: int) -> None:
        with httpx.Client(base_url=self._server.client.base_url, timeout=60) as client:
            while not self._stop.is_set():
                seed += 1
                try:
                    stream = self._server.opened(client, seed, self._tokens)
                    stream.rest()
                    fine = stream.done and stream.finish in ("length", "stop") and stream.error is None
                    bad = "" if fine else f"{seed}: {stream.finish} {stream.error}"
                except (AssertionError, httpx.HTTPError) as error:
                    bad = f"{seed}: {type(error).__name__} {error}"
                if bad:
                    self.bad.append(bad)
                else:
                    self.whole += 1
                self._stop.wait(self._pause_s)


@contextmanager
def load(server: Server, clients: int, tokens: int = 40, pause_s: float = 0.0) -> Iterator[Load]:
    """Under load while the block runs; each client waits for `pause_s` between an answer and its next request."""
    made = Load(server, tokens, pause_s)
    made.add(clients)
    try:
        yield made
    finally:
        made.end()
