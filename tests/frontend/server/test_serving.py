"""How many connections there may be, who makes room, and what is said of it."""

import socket
import time

from wire_world import LIMITS, WAIT_S, Served, json_of, rest, serving, status

ASK = b"POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
GET = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def busy(served: Served, count: int) -> list[socket.socket]:
    """Clients that wait for their answers."""
    clients = [served.connect() for _ in range(count)]
    for client in clients:
        client.sendall(ASK)
    until = time.monotonic() + WAIT_S
    while len(served.app.asked) < count and time.monotonic() < until:
        time.sleep(0.005)
    assert len(served.app.asked) == count
    return clients


def test_who_is_too_many_is_told_so_and_logged_once() -> None:
    with serving(most=4) as served:
        clients = busy(served, 4)
        for _ in range(100):  # more than are refused at the same time
            answer = served.ask(GET, whole=False)
            assert status(answer) == 503
            assert json_of(answer)["error"]["code"] == "too_many_connections"
            assert b"retry-after" in answer
        assert served.reports == ["connections refused: too many are open"]
        served.app.go.set()
        for client in clients:
            client.shutdown(socket.SHUT_WR)
            assert status(rest(client)) == 200
            client.close()
        assert status(served.ask(GET)) == 200


def test_every_place_can_be_taken_however_fast_clients_come() -> None:
    for _ in range(20):
        with serving(most=4) as served:
            clients = busy(served, 4)
            served.app.go.set()
            for client in clients:
                client.shutdown(socket.SHUT_WR)
                assert status(rest(client)) == 200
                client.close()


def test_a_burst_of_clients_is_refused_properly_too() -> None:
    with serving(most=4) as served:
        clients = busy(served, 4)
        crowd = [served.connect() for _ in range(200)]
        for client in crowd:
            client.sendall(GET)
        answers = []
        for client in crowd:
            with client:
                answers.append(rest(client))
        served.app.go.set()
        for client in clients:
            client.close()
        assert {status(answer) if answer else 0 for answer in answers} == {503}


def test_who_asks_nothing_makes_room() -> None:
    with serving(most=4, limits=LIMITS._replace(idle_s=600, receive_s=600)) as served:
        silent = [served.connect() for _ in range(4)]
        for client in silent[::2]:
            client.sendall(b"GET / HTTP/1.1\r\nHost:")
        until = time.monotonic() + WAIT_S
        while status(served.ask(GET, whole=False)) != 200 and time.monotonic() < until:
            time.sleep(0.1)  # only who has waited a second makes room
        for _ in range(20):
            assert status(served.ask(GET, whole=False)) == 200
        for client in silent:
            client.close()


def test_a_server_that_stops_finishes_what_runs() -> None:
    with serving() as served:
        [client] = busy(served, 1)
        idle = served.connect()
        served.server.should_exit = True
        assert rest(idle) == b""
        served.app.go.set()
        assert b"connection: close" in rest(client)
        for one in (idle, client):
            one.close()
