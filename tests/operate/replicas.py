"""Real pods as a Deployment keeps them: as many as are wanted, the cheapest taken away first."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import httpx2

from tests.harness.pod import Pod

__all__ = ["Replicas"]


class Replicas:
    """`pods` are the places, of which `scale` fills as many as are wanted. One is free again when its pod has ended.

    `cost` is a pod's deletion cost, as its annotation would tell it: lower ones go first, and of those the newest, as
    the ReplicaSet controller chooses.
    """

    def __init__(self, pods: list[Pod], cost: Callable[[Pod], int] = lambda _: 0) -> None:
        self.places = pods
        self.running: list[Pod] = []
        """Those that are wanted, the oldest first; some may not be ready yet."""
        self.taken_away: list[tuple[int, list[int]]] = []
        """(cost of the pod that went, costs of those that stayed), for each."""
        self._cost = cost

    @property
    def present(self) -> list[Pod]:
        """Every pod that lives, also those on their way out."""
        return [pod for pod in self.places if pod.alive]

    def scale(self, wanted: int) -> None:
        """Start pods, as far as there are places, or tell some to go."""
        while len(self.running) > wanted:
            costs = {pod.name: self._cost(pod) for pod in self.running}
            leaver = min(reversed(self.running), key=lambda pod: costs[pod.name])
            self.running.remove(leaver)
            self.taken_away.append((costs[leaver.name], [costs[pod.name] for pod in self.running]))
            leaver.signal(signal.SIGTERM)
        free = [pod for pod in self.places if not pod.alive]
        while len(self.running) < wanted and free:
            self.running.append(free.pop(0).start(wait=False))

    async def ready(self, client: httpx2.AsyncClient) -> int:
        """How many of the wanted ones say that they are ready."""
        return sum(await asyncio.gather(*(_ready(client, pod) for pod in self.running)))

    def stop(self) -> None:
        """End all of them."""
        for pod in self.places:
            pod.stop()


async def _ready(client: httpx2.AsyncClient, pod: Pod) -> bool:
    try:
        return (await client.get(f"{pod.url}/readyz")).status_code == 200
    except httpx2.HTTPError:
        return False
