"""The rules of access to a server, from its configuration: names, web pages, and the port for metrics alone."""

import re

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.frontend.site import LOOPBACK, Site, is_loopback, listed

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s,]*")


def site(config: ServeConfig) -> Site:
    """Return what the serving port requires of its callers."""
    keyless = not config.api_keys
    guarded = keyless and not config.allow_open
    hosts = listed(config.allowed_hosts)
    return Site(
        keyless=keyless,
        guarded=guarded,
        hosts=hosts | {config.host.lower()} if hosts or guarded else hosts,
        origins=listed(config.cors_origins),
    )


def other_sites(config: ServeConfig) -> dict[int, Site]:
    """Return what the metrics port requires of its callers, by port number; empty where no such port is configured."""
    if config.metrics_port is None:
        return {}
    guarded = is_loopback(config.metrics_host)
    hosts = listed(config.allowed_hosts) | {config.metrics_host.lower()} if guarded else frozenset[str]()
    return {config.metrics_port: Site(guarded=guarded, metrics_only=True, hosts=hosts, origins=frozenset())}


def check(config: ServeConfig) -> None:
    """Raise ConfigError for settings of access that can't be."""
    for origin in config.cors_origins:
        if origin not in (LOOPBACK, "*", "null") and not ORIGIN.fullmatch(origin.lower().rstrip("/")):
            raise ConfigError(
                f"cors_origins has {origin!r}, which is no origin: write it as https://chat.example or http://pc:3000 "
                "(loopback, * and none are known too)"
            )
    for name in config.allowed_hosts:
        if name != "*" and not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", name):
            raise ConfigError(f"allowed_hosts has {name!r}: write names without scheme and port, such as gpu.example")
    port = config.metrics_port
    if port is not None and port == config.port:
        raise ConfigError(f"metrics_port is {port}, as port: give it one of its own")
