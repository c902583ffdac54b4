"""Where a server listens, and how long its connections last."""

from __future__ import annotations

import socket

LAST_WORDS = 5
"""Seconds in which clients can take the end of an answer that was cut"""
KEEP_ALIVE = 75
"""Seconds that a connection may be idle: more than in the clients and proxies that use it again, which would otherwise do so
just when it is closed"""


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that an address in use is said before anything is loaded. Raises ValueError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ValueError(
            f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --port or --host"
        ) from None
    return bound
