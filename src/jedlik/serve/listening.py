"""The address that a server listens on: bound, written as a URL, and who has it where it is taken."""

import json
import socket

from jedlik.core.errors import ConfigError
from jedlik.net.http_client import get

ASK_S = 1.0


def bind(host: str, port: int) -> socket.socket:
    """The one socket to listen on: it outlives gateways, so that connections wait while one restarts.

    Raises ConfigError.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot listen on host {host}: {error}; --host takes an address of this machine") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise refused(host, port, error) from error
    listener.set_inheritable(False)  # passed on to the gateway by number
    return listener


def refused(host: str, port: int, error: OSError) -> ConfigError:
    """Return the error that says why there is no listening there."""
    return ConfigError(f"cannot listen on {at(host, port)}: {error.strerror}; {remedy(host, port)}")


def remedy(host: str, port: int) -> str:
    """Return what runs there, and what to do."""
    model = served(url(reachable(host), port))
    if model is None:
        return f"choose another with --port, or find who has it: ss -ltnp 'sport = :{port}'"
    other = port + 1 if port < 65535 else port - 1
    return f"jedlik serves {model} there already: use that one, stop it, or serve this one with --port {other}"


def served(server: str) -> str | None:
    """The models of a jedlik server, as it names them; None: none answers there."""
    try:
        health = json.loads(get(server, "/health", None, ASK_S).body)
        if not isinstance(health, dict) or "workers" not in health:
            return None
        reply = get(server, "/v1/models", None, ASK_S)
        names = [str(model["id"]) for model in json.loads(reply.body)["data"]] if reply.status == 200 else []
    except (ConfigError, ValueError, KeyError, TypeError):
        return None
    return ", ".join(names) or "another model"


def url(host: str, port: int) -> str:
    """The URL of an address as a browser takes it: an IPv6 address is in brackets."""
    return f"http://{at(host, port)}"


def at(host: str, port: int) -> str:
    """Return host and port in one text, as host:port or [address]:port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host: str) -> str:
    """The address at which this machine itself reaches a socket that is bound to `host`, also to every address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
