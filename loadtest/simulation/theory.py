"""What queueing theory knows exactly: the yardstick of the engine's tests."""

from __future__ import annotations

__all__ = ["erlang_c", "mean_wait_mg1", "mean_wait_mmc"]


def erlang_c(servers: int, offered: float) -> float:
    """The chance that who comes must wait, in M/M/c. `offered`: arrivals a second times service, below `servers`."""
    blocked = 1.0
    for n in range(1, servers + 1):  # Erlang B, by its recurrence: no factorial grows
        blocked = offered * blocked / (n + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


def mean_wait_mmc(arrivals_s: float, service_s: float, servers: int) -> float:
    """Seconds in the line, on average, in M/M/c."""
    offered = arrivals_s * service_s
    return erlang_c(servers, offered) * service_s / (servers - offered)


def mean_wait_mg1(arrivals_s: float, service_s: float, variation: float) -> float:
    """Seconds in the line, on average, in M/G/1 (Pollaczek-Khinchine)."""
    busy = arrivals_s * service_s
    return busy * service_s * (1 + variation**2) / (2 * (1 - busy))
