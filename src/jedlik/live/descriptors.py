"""Open files: as many as the system allows, and how many of them may be clients' connections."""

import resource

MOST = 65536
RESERVE = 192
"""Descriptors kept for refusing further clients, links to workers, logs, and files that are opened now and then."""


def raise_limit() -> None:
    """The soft limit becomes the hard one; children inherit it. It is usually low (1024) for programs with `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def for_connections() -> int:
    """How many of this process's open files may be clients' connections."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    limit = MOST if soft == resource.RLIM_INFINITY else min(soft, MOST)
    return max(limit - RESERVE, limit // 2)
