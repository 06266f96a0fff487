"""Listening sockets: opened or inherited, and closed without losing a connection.

The kernel completes handshakes by itself. Connections wait in the accept queue of the
socket until the process accepts them, and are reset when the socket is closed.
"""

import asyncio
import ctypes
import errno
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from aiohttp import web
from msgspec.structs import replace
from yarl import URL

from service.settings import ServerSettings

LISTEN_BACKLOG: Final = 1024
HANDSHAKE_S: Final = 0.1
"""Time for handshakes that have begun, before their socket is closed."""
OTHER_PORT: Final = 11
"""Distance between a port in use and the one that is suggested instead."""
PORT_LIMIT: Final = 65_535 - OTHER_PORT

ATTACH_FILTER: Final = 26
"""`SO_ATTACH_FILTER` of Linux (asm-generic/socket.h)."""
DROP_SYN: Final = (
    (0x30, 0, 0, 13),  # load the byte of TCP's header that has the flags
    (0x45, 0, 1, 0x02),  # unless SYN is set, skip the next instruction
    (0x06, 0, 0, 0),  # drop the packet
    (0x06, 0, 0, 0xFFFF_FFFF),  # keep the whole packet
)
"""A filter (bpf(4)) that drops the first packet of each new connection.

It keeps the last packet of a handshake: the client is connected once it has sent that.
"""


class CannotStart(Exception):
    """The server cannot listen: its address is in use, or not of this machine."""

    @classmethod
    def at(cls, server: ServerSettings, error: OSError) -> "CannotStart":
        """Return the error with its cause, and a command for another port."""
        if error.errno != errno.EADDRINUSE:
            return cls(f"cannot listen: {error.strerror or error}")
        other_port = server.port + (
            OTHER_PORT if server.port < PORT_LIMIT else -OTHER_PORT
        )
        return cls(
            f"port {server.port} of {server.host} is in use; choose another one: "
            f'--port {other_port}, or make run ARGS="--port {other_port}"'
        )


class Listeners(NamedTuple):
    """The sockets of the settings' address, and inherited ones of another address."""

    sockets: list[socket.socket]
    replaced: list[socket.socket]
    admin: Sequence[socket.socket] = ()
    """The sockets of the operators' address, if it is another one."""


def listen_all(
    server: ServerSettings, inherited: Sequence[socket.socket] = ()
) -> Listeners:
    """Return sockets for the address and for that of operators.

    Inherited sockets are used again. Raises `CannotStart`.
    """
    main = listen(server, inherited)
    if not server.admin_port:
        return main
    address = server.admin_host, server.admin_port
    admin = replace(server, host=address[0], port=address[1], admin_port=0)
    try:
        sockets, replaced, _ = listen(admin, main.replaced)
    except CannotStart as error:
        close_all(each for each in main.sockets if each not in inherited)
        cause = error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) else cause
        raise CannotStart(f"server.admin_port: cannot listen: {reason}") from error
    return Listeners(main.sockets, replaced, sockets)


def listen(
    server: ServerSettings, inherited: Sequence[socket.socket] = ()
) -> Listeners:
    """Return sockets for all addresses of `server.host`; raises `CannotStart`.

    Inherited sockets of these addresses are used again.
    """
    sockets: list[socket.socket] = []
    failures: list[OSError] = []
    try:
        infos = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise CannotStart.at(server, error) from error
    for family, *_, (host, port, *scope) in dict.fromkeys(infos):
        # One free port serves all addresses.
        chosen = port or (sockets[0].getsockname()[1] if sockets else 0)
        address = (host, chosen, *scope)
        try:
            found = _find(inherited, family, address) or _open(family, address)
            sockets.append(found)
        except OSError as error:
            failures.append(error)
    # A name may have an address that this machine lacks, mostly one of IPv6.
    absent = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
    fatal = [each for each in failures if not sockets or each.errno not in absent]
    if fatal:
        close_all(each for each in sockets if each not in inherited)
        raise CannotStart.at(server, fatal[0]) from fatal[0]
    return Listeners(sockets, [each for each in inherited if each not in sockets])


def url_of(server: ServerSettings, sockets: Sequence[socket.socket]) -> str:
    """Return the URL of the first socket, with the host of the settings."""
    port = sockets[0].getsockname()[1]
    return str(URL.build(scheme="http", host=server.host, port=port))


def close_all(sockets: Iterable[socket.socket]) -> None:
    """Close sockets."""
    for each in sockets:
        each.close()


async def finish_handshakes(listeners: Sequence[socket.socket]) -> None:
    """Begin no new connection, for all processes that share the sockets.

    Connections that have begun reach the accept queue meanwhile. On other systems than
    Linux new ones still begin.
    """
    if sys.platform == "linux":
        for each in listeners:
            _drop_new_connections(each)
    await asyncio.sleep(HANDSHAKE_S)


async def accept_waiting(
    listeners: Sequence[socket.socket], server: web.Server
) -> None:
    """Accept the connections of the accept queues."""
    loop = asyncio.get_running_loop()
    for each in listeners:
        # The bound is for systems on which new connections still arrive.
        for _ in range(4 * LISTEN_BACKLOG):
            try:
                connection, _ = each.accept()
            except ConnectionAbortedError:
                continue
            except OSError:  # the queue is empty, or this process has no descriptor
                break
            connection.setblocking(False)  # noqa: FBT003
            with suppress(OSError):
                await loop.connect_accepted_socket(server, connection)


async def close_in_order(
    listeners: Sequence[socket.socket], server: web.Server
) -> None:
    """Close sockets after their connections were accepted."""
    await finish_handshakes(listeners)
    await accept_waiting(listeners, server)
    close_all(listeners)


def _find(
    inherited: Sequence[socket.socket], family: int, address: tuple[Any, ...]
) -> socket.socket | None:
    """Return the inherited socket of an address; port 0 stands for any port."""
    host, port, *_ = address
    for each in inherited:
        own_host, own_port = each.getsockname()[:2]
        if (each.family, own_host) == (family, host) and port in (0, own_port):
            return each
    return None


def _open(family: int, address: tuple[Any, ...]) -> socket.socket:
    opened = socket.create_server(address, family=family, backlog=LISTEN_BACKLOG)
    opened.setblocking(False)  # noqa: FBT003
    return opened


def _drop_new_connections(listener: socket.socket) -> None:
    code = b"".join(struct.pack("HBBI", *each) for each in DROP_SYN)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HP", len(DROP_SYN), ctypes.addressof(buffer))
    # Without the filter, a connection of the last moment may be lost.
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, ATTACH_FILTER, program)
