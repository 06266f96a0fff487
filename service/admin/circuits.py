"""Circuits of upstreams and of the database, behind the same methods."""

import time
from typing import Final, Literal, Protocol

from msgspec import UNSET

from service.admin.model import CircuitState
from service.admin.process import utc
from service.storage.breaker import StorageBreaker
from service.upstream import circuit_breaker
from service.upstream.guard import UpstreamGuard

Forced = Literal["open", "close", "auto"]
STATES: Final = {
    "open": circuit_breaker.CircuitState.OPEN,
    "close": circuit_breaker.CircuitState.CLOSED,
    "auto": None,
}
IS_OPEN: Final = {"open": True, "close": False, "auto": None}


class Circuit(Protocol):
    """A circuit that an operator may keep open or closed."""

    @property
    def state(self) -> CircuitState:
        """The present state."""

    def force(self, state: Forced) -> None:
        """Keep the circuit in a state; `auto` gives it back."""


class UpstreamCircuit:
    """The circuit of an upstream, and the waits that it has asked for."""

    def __init__(self, guard: UpstreamGuard) -> None:
        self._guard = guard

    @property
    def state(self) -> CircuitState:
        """The present state."""
        breaker, now = self._guard.breaker, time.time()
        left_s = 0.0 if breaker.is_forced else breaker.refuses_for_s
        until = utc(now + left_s) if left_s else None
        held = self._guard.blocked_endpoints()
        endpoints = {name: utc(now + wait_s) for name, wait_s in held.items()}
        return CircuitState(
            breaker.state.value, breaker.is_forced, until, endpoints or UNSET
        )

    def force(self, state: Forced) -> None:
        """Keep the circuit in a state; `auto` gives it back."""
        self._guard.force(STATES[state])


class DatabaseCircuit:
    """The circuit of the database, which probes close."""

    def __init__(self, breaker: StorageBreaker) -> None:
        self._breaker = breaker

    @property
    def state(self) -> CircuitState:
        """The present state."""
        is_open = self._breaker.is_open
        return CircuitState(
            "open" if is_open else "closed", self._breaker.is_forced, None
        )

    def force(self, state: Forced) -> None:
        """Keep the circuit in a state; `auto` gives it back."""
        self._breaker.force(is_open=IS_OPEN[state])
