"""Pods that are killed again and again while they work, and the work that they are given."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Sequence

import httpx2

from tests.harness.pod import Pod

__all__ = ["Fleet", "submit"]


class Fleet:
    """Pods that are started again when they die; one is killed every `period_s`."""

    def __init__(self, pods: list[Pod], period_s: float) -> None:
        self.pods = pods
        self.kills = 0
        self._period_s = period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Fleet:
        for one in self.pods:
            one.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for one in self.pods:
            one.stop()

    def _work(self) -> None:
        chance = random.Random(11)
        while not self._stop.wait(self._period_s):
            victim = chance.choice(self.pods)
            victim.kill()
            self.kills += 1
            victim.start(wait=False)


def submit(pods: Sequence[Pod], client: httpx2.Client, number: int, calls: str) -> str:
    """One background run of the worker, sent until some pod has said that it has it. Returns its id."""
    for pod in itertools.islice(itertools.cycle(pods), number % len(pods), None):
        try:
            answer = client.post(
                f"{pod.url}/v1/responses",
                json={"model": "worker", "input": calls, "background": True},
                headers={"Idempotency-Key": f"run-{number}"},
            )
        except httpx2.HTTPError:
            time.sleep(0.05)
            continue
        if answer.status_code == 200:
            return str(answer.json()["id"])
        assert answer.status_code in {429, 503}, answer.text
        time.sleep(0.2)
    raise AssertionError
