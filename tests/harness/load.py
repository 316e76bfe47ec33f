"""A steady load of turns on some pods: each talker has a conversation of its own, and repeats what was not answered."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx2

from tests.harness.pod import Pod


@dataclass
class Talker:
    """One conversation: what was acknowledged, in order."""

    conversation: str = ""
    acknowledged: list[str] = field(default_factory=list)


class Load:
    """Runs `talkers` threads over `pods` until it is left; `pause_s` lies between a talker's turns."""

    def __init__(
        self, pods: list[Pod], talkers: int = 4, *, pause_s: float = 0.02, body: dict[str, Any] | None = None
    ) -> None:
        self._pods = pods
        self._pause_s = pause_s
        self._body = {"model": "echo", **(body or {})}
        self._over = threading.Event()
        self.talkers = [Talker() for _ in range(talkers)]
        self._threads = [
            threading.Thread(target=self._talk, args=(number, talker)) for number, talker in enumerate(self.talkers)
        ]
        self.answered: list[float] = []
        """When each turn was acknowledged, by `time.monotonic`."""
        self.refused: list[str] = []
        """What was answered instead of a 200."""

    def __enter__(self) -> Load:
        for talker in self.talkers:
            talker.conversation = httpx2.post(f"{self._pods[0].url}/v1/conversations", json={}, timeout=10).json()["id"]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Say nothing more, and wait for the answers that are under way."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _talk(self, number: int, talker: Talker) -> None:
        turn = 0
        with httpx2.Client(timeout=40) as client:
            while not self._over.wait(self._pause_s):
                turn += 1
                text = f"talker {number} turn {turn}"
                body = {**self._body, "conversation": talker.conversation, "input": text}
                if not self._say(client, body, f"{talker.conversation}-{turn}", turn + number):
                    return
                talker.acknowledged.append(text)

    def _say(self, client: httpx2.Client, body: dict[str, Any], key: str, at: int) -> bool:
        """Say it until it is acknowledged; whether it was before the load was over."""
        while True:
            pod = self._pods[at % len(self._pods)]
            try:
                answer = client.post(f"{pod.url}/v1/responses", json=body, headers={"Idempotency-Key": key})
            except httpx2.HTTPError as error:
                self.refused.append(type(error).__name__)
            else:
                if answer.status_code == 200 and answer.json()["status"] == "completed":
                    self.answered.append(time.monotonic())
                    return True
                self.refused.append(f"{answer.status_code} {answer.text[:300]}")
            at += 1
            if self._over.wait(0.1):
                return False

    def wait_answered(self, since: float, count: int, timeout_s: float) -> float:
        """Seconds from `since` until the first turn was acknowledged after it, once `count` were."""
        deadline = time.monotonic() + timeout_s
        while True:
            after = [at for at in list(self.answered) if at > since]
            if len(after) >= count:
                return min(after) - since
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(after)} turns acknowledged within {timeout_s} s; {self.refused[-5:]}")
            time.sleep(0.02)

    def lost(self) -> list[str]:
        """Acknowledged turns that the history does not have exactly once, in order. Asked of a pod, after the load."""
        wrong = []
        for talker in self.talkers:
            said = [text for text in self._history(talker.conversation) if text.startswith("talker")]
            kept = said[: len(talker.acknowledged)]
            if kept != talker.acknowledged or len(said) > len(talker.acknowledged) + 1:
                wrong += [f"{talker.conversation}: acknowledged {talker.acknowledged[-3:]}, stored {said[-3:]}"]
        return wrong

    def _history(self, conversation: str) -> list[str]:
        texts: list[str] = []
        query: dict[str, Any] = {"order": "asc", "limit": 100}
        while True:
            url = f"{self._pods[0].url}/v1/conversations/{conversation}/items"
            answer = httpx2.get(url, params=query, timeout=20)
            if answer.status_code != 200:
                return [f"{answer.status_code} {answer.text[:200]}"]
            page = answer.json()
            texts += [item["content"][0]["text"] for item in page["data"]]
            if not page["has_more"]:
                return texts
            query["after"] = page["last_id"]
