"""Who reaches a real server, and what its log says of them."""

import socket

import httpx
import pytest
from cluster_server import Server

pytestmark = pytest.mark.cluster
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_metrics_on_a_port_of_their_own_and_a_log_in_our_words_only() -> None:
    port = free_port()
    server = Server("--workers", "1", "--api-keys", "secret=alice", "--metrics-port", str(port))
    try:
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/metrics").text.startswith("# HELP")
        assert httpx.get(f"{url}/v1/models").status_code == 404
        assert httpx.get(f"{url}/metrics", headers={"host": "evil.example"}).status_code == 403
        assert server.client.get("/metrics").status_code == 401
        assert server.client.get("/metrics", headers={"authorization": "Bearer secret"}).status_code == 200
        body = b'{"model":"tiny-random","prompt":"x","max_tokens":1}'
        for what, status in ((OFFER, 200), (b"Bad Header\r\n", 400)):
            with socket.create_connection(("127.0.0.1", server.client.base_url.port or 0), timeout=30) as client:
                client.sendall(
                    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer secret\r\n"
                    b"Content-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), what, body)
                )
                assert client.recv(100).startswith(b"HTTP/1.1 %d " % status)
        assert server.stop() == 0
        for word in ("uvicorn", "Unsupported", "Invalid HTTP", "Traceback"):
            assert not [line for line in server.lines if word in line]
    finally:
        server.clean()
