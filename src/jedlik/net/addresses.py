"""The addresses of this server's processes: a unix socket of one host, or a TCP port. A text is parsed once."""

import msgspec

from jedlik.core.errors import ConfigError


class UnixAddress(msgspec.Struct, frozen=True, tag="unix"):
    """A unix socket, which processes of its own host can reach."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


class TcpAddress(msgspec.Struct, frozen=True, tag="tcp"):
    """A TCP port of a host: a name, or an IPv4 or IPv6 address without brackets."""

    host: str
    port: int
    """The port number; 0, where somebody is to listen: any."""

    def __str__(self) -> str:
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"


Address = UnixAddress | TcpAddress


def parse(text: str) -> Address:
    """Return the address that `unix:PATH` or `tcp:HOST:PORT` means. Raises ConfigError for anything else."""
    kind, _, where = text.partition(":")
    host, _, port = where.rpartition(":")
    if kind == "unix" and where:
        return UnixAddress(where)
    if kind == "tcp" and host and port.isdecimal() and int(port) < 65536:
        return TcpAddress(host.strip("[]"), int(port))
    raise ConfigError(f"{text!r} is no address: write it as unix:PATH or tcp:HOST:PORT")
