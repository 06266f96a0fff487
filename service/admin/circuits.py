"""Circuits of upstreams and of the database, behind the same methods."""

import time
from typing import Final, Literal, Protocol

from service.admin.model import CircuitState
from service.admin.process import utc
from service.storage.breaker import StorageBreaker
from service.upstream import circuit_breaker
from service.upstream.circuit_breaker import CircuitBreaker

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
    """The circuit of an upstream."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker

    @property
    def state(self) -> CircuitState:
        """The present state."""
        breaker = self._breaker
        left_s = 0.0 if breaker.is_forced else breaker.refuses_for_s
        until = utc(time.time() + left_s) if left_s else None
        return CircuitState(breaker.state.value, breaker.is_forced, until)

    def force(self, state: Forced) -> None:
        """Keep the circuit in a state; `auto` gives it back."""
        self._breaker.force(STATES[state])


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
