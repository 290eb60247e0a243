"""Whether the client of a TCP connection is still there after it said that it sends no more.

`shutdown` and `close` look the same on the wire: a FIN. For a client on this host the kernel knows which it was:
Linux's sock_diag tells every socket's inode, and one that nobody holds any more has none. Of others only their answer
to something sent tells: a client that left answers with a reset.
"""

import contextlib
import socket
import struct

_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _REQUEST, _ERROR = 4, 20, 1, 2
"""Constants of linux/netlink.h and linux/sock_diag.h."""
_ESTABLISHED, _CLOSE = 1, 7
"""States of TCP, of Linux's net/tcp_states.h."""
_ANY = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")
_ASKED = struct.Struct("=BBBBI")
_ENDS = struct.Struct("!HH16s16s")
_REST = struct.Struct("=III")
_INODE_AT = _HEADER.size + 4 + _ENDS.size + _REST.size + 4 * 4
"""The inode's offset in an answer: in `inet_diag_msg` it follows family and state, the ends, and four counters."""


def is_gone(connection: socket.socket) -> bool | None:
    """Whether the client of an accepted connection is gone; None: nobody here can know yet."""
    try:
        if connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSE:
            return True  # it has answered with a reset
        found = _look_up(connection.getpeername(), connection.getsockname())
    except (OSError, ValueError, struct.error):
        return None
    if found is None:
        return None
    state, inode = found
    return inode == 0 and state != _ESTABLISHED


def _look_up(own: tuple[str, int], other: tuple[str, int]) -> tuple[int, int] | None:
    """State and inode of the socket on this host that has these ends; None: there is none."""
    with contextlib.closing(socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG)) as kernel:
        kernel.settimeout(0.1)
        kernel.send(_question(own, other))
        answer = kernel.recv(4096)
    if _HEADER.unpack_from(answer)[1] == _ERROR:
        return None
    return answer[_HEADER.size + 1], struct.unpack_from("=I", answer, _INODE_AT)[0]


def _question(own: tuple[str, int], other: tuple[str, int]) -> bytes:
    hosts = [end[0].removeprefix("::ffff:") for end in (own, other)]
    family = socket.AF_INET6 if ":" in hosts[0] else socket.AF_INET
    ends = _ENDS.pack(own[1], other[1], *(socket.inet_pton(family, host.partition("%")[0]) for host in hosts))
    asked = _ASKED.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY) + ends + _REST.pack(0, _ANY, _ANY)
    return _HEADER.pack(_HEADER.size + len(asked), _SOCK_DIAG_BY_FAMILY, _REQUEST, 1, 0) + asked
