"""Resetting of connections, for answers that must not look complete."""

import asyncio
import os
import socket
import struct
from typing import Final

LINGER_OFF: Final = struct.pack("ii", 1, 0)
"""`struct linger`: on, for 0 seconds."""


def reset_connection(transport: asyncio.Transport) -> None:
    """Close a connection with RST, which drops what is not sent yet.

    An ordinary close would end an answer of HTTP/1.0 as if it were complete.
    """
    # A duplicate of the descriptor, because uvloop does not give access to its socket.
    fileno = os.dup(transport.get_extra_info("socket").fileno())
    with socket.socket(fileno=fileno) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_OFF)
    transport.abort()
