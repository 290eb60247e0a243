"""Real processes: served, killed, stopped, frozen. No request fails, no token comes twice, nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from cluster_server import PATIENT, START_S, Server, gone

pytestmark = pytest.mark.cluster
TOKENS = 200
LONG = 1500
"""Tokens of an answer that outlasts what is done meanwhile: five seconds and more."""
QUICK = ("--gateway.silent-suspect-s", "1", "--gateway.silent-fence-s", "3", "--worker.hung-step-s", "1")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Two workers whose steps take about 4 ms; shared by the tests that only hurt its children."""
    server = Server("--workers", "2", "--speedup", "4", *QUICK)
    server.wait_for(lambda: server.ready_workers() == 2)
    yield server
    server.clean()


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that a test may stop."""
    server = Server("--workers", "1", "--speedup", "4", *PATIENT)
    yield server
    server.clean()


def test_streamed_and_whole_answers_are_equal(server: Server) -> None:
    with httpx.Client(base_url=server.client.base_url, timeout=30) as client:
        stream = server.opened(client, 1, 20)
        assert stream.rest() == server.answer(1, 20) != ""
        assert (stream.done, stream.finish) == (True, "length")


def test_roles_are_readable_in_ps(server: Server) -> None:
    assert server.pid_of("gateway")
    assert server.pid_of("worker-0") != server.pid_of("worker-1")


def test_a_worker_killed_in_mid_stream_costs_nothing(server: Server) -> None:
    with httpx.Client(base_url=server.client.base_url, timeout=30) as client:
        streams = [server.opened(client, seed, TOKENS) for seed in range(8)]
        victim = streams[0].worker
        for stream in streams:
            stream.take(5)
        before = server.pid_of(victim.partition("@")[0])
        os.kill(before, signal.SIGKILL)
        texts = [stream.rest() for stream in streams]
    assert [(s.done, s.finish, s.error) for s in streams] == [(True, "length", None)] * 8
    server.wait_for(lambda: server.ready_workers() == 2)
    assert texts == [server.answer(seed, TOKENS) for seed in range(8)]


def test_a_frozen_worker_is_fenced_killed_and_replaced(server: Server) -> None:
    with httpx.Client(base_url=server.client.base_url, timeout=30) as client:
        streams = [server.opened(client, seed, TOKENS) for seed in range(4)]
        victim = streams[0].worker.partition("@")[0]
        pid = server.pid_of(victim)
        os.kill(pid, signal.SIGSTOP)
        texts = [stream.rest() for stream in streams]
    assert [(s.done, s.finish, s.error) for s in streams] == [(True, "length", None)] * 4
    server.wait_for(lambda: gone([pid]) and server.ready_workers() == 2)
    assert texts == [server.answer(seed, TOKENS) for seed in range(4)]


def test_a_worker_frozen_for_a_moment_goes_on() -> None:
    server = Server("--workers", "1", "--speedup", "4", "--gateway.silent-suspect-s", "0.6", *PATIENT[2:])
    try:
        with httpx.Client(base_url=server.client.base_url, timeout=30) as client:
            stream = server.opened(client, 5, TOKENS)
            pid = server.pid_of("worker-0")
            os.kill(pid, signal.SIGSTOP)
            server.wait_for(lambda: server.ready_workers() == 0)  # suspect, and not to be fenced for a long time
            os.kill(pid, signal.SIGCONT)
            text = stream.rest()
        assert (stream.done, stream.error) == (True, None)
        server.wait_for(lambda: server.ready_workers() == 1)
        assert text == server.answer(5, TOKENS)
        assert not gone([pid])
    finally:
        server.clean()


@pytest.mark.parametrize("how", [signal.SIGUSR1, signal.SIGUSR2], ids=["hung step", "failed step"])
def test_a_broken_engine_costs_no_stream_and_its_process_is_replaced(server: Server, how: signal.Signals) -> None:
    with httpx.Client(base_url=server.client.base_url, timeout=30) as client:
        streams = [server.opened(client, seed, TOKENS) for seed in range(4)]
        pid = server.pid_of(streams[0].worker.partition("@")[0])
        os.kill(pid, how)
        texts = [stream.rest() for stream in streams]
    assert [(s.done, s.finish, s.error) for s in streams] == [(True, "length", None)] * 4
    server.wait_for(lambda: gone([pid]) and server.ready_workers() == 2)
    assert texts == [server.answer(seed, TOKENS) for seed in range(4)]


def test_a_client_that_leaves_stops_the_work(server: Server) -> None:
    with httpx.Client(base_url=server.client.base_url, timeout=30) as client:
        server.opened(client, 10, LONG)

    def idle() -> bool:
        health = server.client.get("/health").json()
        return health["in_flight"] == 0 and all(worker["running"] == 0 for worker in health["workers"])

    server.wait_for(idle)


def test_a_killed_gateway_comes_back(server: Server) -> None:
    pid = server.pid_of("gateway")
    os.kill(pid, signal.SIGKILL)
    reply = httpx.get(f"{server.client.base_url}/live", timeout=START_S)  # waits in the socket's backlog
    assert reply.status_code == 200
    server.wait_for(lambda: server.ready_workers() == 2)
    assert server.pid_of("gateway") != pid
    assert server.answer(6, 5) != ""


def test_sigterm_lets_streams_finish_and_leaves_nothing(own: Server) -> None:
    expected = own.answer(7, LONG)
    children = own.children()
    with httpx.Client(base_url=own.client.base_url, timeout=30) as client:
        stream = own.opened(client, 7, LONG)
        own.process.send_signal(signal.SIGTERM)
        own.wait_for(lambda: own.client.get("/health").json()["draining"])
        refused = own.client.post("/v1/chat/completions", json=own.body(8, 5))
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        assert stream.rest() == expected
        assert stream.done
    assert own.stop() == 0
    assert gone(children)
    assert not own.run_dir.exists()


def test_the_only_worker_killed_its_stream_waits_for_the_next(own: Server) -> None:
    expected = own.answer(9, TOKENS)
    with httpx.Client(base_url=own.client.base_url, timeout=30) as client:
        stream = own.opened(client, 9, TOKENS)
        os.kill(own.pid_of("worker-0"), signal.SIGKILL)
        assert stream.rest() == expected
    children = own.children()
    assert own.stop(signal.SIGINT) == 0
    assert gone(children)


def test_a_killed_supervisor_leaves_no_orphans(own: Server) -> None:
    children = own.children()
    assert len(children) == 2
    own.process.kill()
    end = time.monotonic() + START_S
    while not gone(children):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_port_in_use_is_told_with_a_remedy(server: Server) -> None:
    port = str(server.client.base_url.port)
    command = [sys.executable, "-m", "jedlik", "serve", "tiny-random", "--engine", "simulated", "--port", port]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "--port" in ended.stderr


def test_chat_talks_to_a_server(server: Server) -> None:
    port = str(server.client.base_url.port)
    command = [sys.executable, "-m", "jedlik", "chat", "--port", port, "--max-tokens", "5"]
    said = "Hello\n/reset\n/help\nAgain\n/quit\n"
    ended = subprocess.run(command, input=said, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("\n> ") == 5
    assert "forgotten" in ended.stdout
    assert len(ended.stdout.split()) > 20


def test_with_no_worker_left_clients_get_proper_errors_until_one_is_back() -> None:
    server = Server("--workers", "1", "--speedup", "4", "--gateway.migration-wait-s", "0.1")
    try:
        with httpx.Client(base_url=server.client.base_url, timeout=30) as client:
            stream = server.opened(client, 1, LONG)
            worker = server.pid_of("worker-0")
            os.kill(server.process.pid, signal.SIGSTOP)  # so that nobody starts the next one yet
            os.kill(worker, signal.SIGKILL)
            stream.rest()
            assert isinstance(stream.error, dict)
            assert stream.finish is None
            refused = server.client.post("/v1/chat/completions", json=server.body(2, 5))
            assert refused.status_code == 503
            assert refused.json()["error"]["message"]
            os.kill(server.process.pid, signal.SIGCONT)
        server.wait_for(lambda: server.ready_workers() == 1)
        assert server.answer(3, 5) != ""
    finally:
        server.clean()


def test_a_second_signal_stops_at_once() -> None:
    server = Server("--workers", "1")
    try:
        with httpx.Client(base_url=server.client.base_url, timeout=30) as client:
            stream = server.opened(client, 1, LONG)
            children = server.children()
            server.process.send_signal(signal.SIGINT)
            server.wait_for(lambda: any("SIGINT" in line for line in server.lines))
            assert server.stop(signal.SIGINT) == 0
            assert gone(children)
            with pytest.raises(httpx.TransportError):
                stream.rest()  # of which twenty seconds were left, and thirty to finish
    finally:
        server.clean()


def test_a_stream_longer_than_the_drain_budget_ends_with_an_error_in_time() -> None:
    server = Server("--workers", "1", "--drain-s", "0.5")
    try:
        with httpx.Client(base_url=server.client.base_url, timeout=30) as client:
            stream = server.opened(client, 1, LONG)
            children = server.children()
            server.process.send_signal(signal.SIGTERM)
            stream.rest()
            assert isinstance(stream.error, dict)
            assert stream.finish is None
        assert server.stop() == 0
        assert gone(children)
        assert not server.run_dir.exists()
    finally:
        server.clean()


def test_keys_are_asked_for() -> None:
    server = Server("--workers", "1", "--api-keys", "secret=alice")
    try:
        assert server.client.post("/v1/chat/completions", json=server.body(1, 5)).status_code == 401
        server.client.headers["authorization"] = "Bearer secret"
        assert server.answer(1, 5) != ""
        assert "secret" not in "\n".join(server.lines)
    finally:
        server.clean()
