"""The scenarios: chat, tools, background. `make load` runs them; loadtest/README.md says how to read what comes out.

Read from the environment: LOAD_HOSTS (comma list of pods; any of them takes any request; default: locust's --host),
LOAD_SHAPE (ramp, spike), LOAD_SECONDS, LOAD_USERS, LOAD_THRESHOLDS.
"""

from __future__ import annotations

import json
import os
import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from locust import HttpUser, LoadTestShape, between, events, task
from locust.env import Environment

from loadtest.gate import Row, judge, read
from loadtest.shapes import SHAPES

THRESHOLDS = Path(os.environ.get("LOAD_THRESHOLDS", Path(__file__).with_name("thresholds.toml")))
HOSTS = [host for host in os.environ.get("LOAD_HOSTS", "").split(",") if host]
BUSY = {409, 429, 503}
"""Come again later, says `Retry-After`: not a failure of its own, but the time counts."""
PATIENCE_S = 60
FINAL = {"response.completed", "response.failed", "response.incomplete"}


class Talker(HttpUser):
    """What all users share."""

    abstract = True
    host = HOSTS[0] if HOSTS else None

    def url(self, path: str) -> str:
        """The path, at any pod."""
        return (random.choice(HOSTS) if HOSTS else str(self.host)) + path

    def row(self, name: str, begun: float, problem: Exception | None = None, size: int = 0) -> None:
        """A row of our own: what a user waits for is more than one answer's headers."""
        self.environment.events.request.fire(
            request_type="turn",
            name=name,
            response_time=(time.perf_counter() - begun) * 1000,
            response_length=size,
            exception=problem,
            context={},
        )

    def send(self, body: dict[str, Any], key: str, name: str, **options: Any) -> Any:
        """The answer of the message, sent again under its key while pods are busy. Raises TimeoutError."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            answer = self.client.post(
                self.url("/v1/responses"),
                json=body,
                headers={"Idempotency-Key": key},
                name=name,
                catch_response=True,
                **options,
            )
            if answer.status_code not in BUSY:
                return answer  # not entered yet: its row is written when the caller leaves it
            with answer:
                answer.success()
                self.environment.events.request.fire(
                    request_type="turn", name="told to come again", response_time=0, response_length=0, context={}
                )
            time.sleep(min(5.0, float(answer.headers.get("Retry-After", 1))))
        raise TimeoutError(f"busy for {PATIENCE_S} s")


class Chat(Talker):
    """Reads and types between its turns; streams; its history has a length of its own from the beginning."""

    weight = 6
    wait_time = between(0.5, 2.0)

    def on_start(self) -> None:
        """A conversation, new or long."""
        items = [
            {"type": "message", "role": "user", "content": f"an earlier message, number {number}"}
            for number in range(random.choice([0, 20, 200]))
        ]
        answer = self.client.post(self.url("/v1/conversations"), json={"items": items}, name="conversation")
        self.conversation = answer.json()["id"]

    @task
    def turn(self) -> None:
        """One turn, to its final event: a stream without one has failed, whatever its status was."""
        body = {"model": "support", "conversation": self.conversation, "input": "count to 20", "stream": True}
        begun = time.perf_counter()
        try:
            with self.send(body, uuid.uuid4().hex, "chat: headers", stream=True) as answer:
                answer.raise_for_status()
                self._read(answer, begun)
        except Exception as error:  # noqa: BLE001 - whatever it was, the user has no answer: the row says so
            self.row("chat: whole stream", begun, error)

    def _read(self, answer: Any, begun: float) -> None:
        first, text, last = True, False, ""
        for event in _events(answer):
            last = event["type"]
            if first:
                self.row("chat: first event", begun)
                first = False
            if not text and last == "response.output_text.delta":
                self.row("chat: first text", begun)
                text = True
        if last not in FINAL:
            raise EOFError(f"the stream ended with {last or 'nothing'}")
        if last != "response.completed":
            raise ValueError(last)
        self.row("chat: whole stream", begun)


class Tools(Talker):
    """Opens tickets, and refreshes the page: the same message again is the same ticket."""

    weight = 2
    wait_time = between(1.0, 3.0)

    @task
    def ticket(self) -> None:
        """Sent two or three times under one key; every answer must be the first one."""
        key = uuid.uuid4().hex
        body = {"model": "support", "input": f"open a ticket: {key}"}
        begun = time.perf_counter()
        try:
            answers = set()
            for _ in range(random.choice([2, 3])):
                with self.send(body, key, "tools: send") as answer:
                    answer.raise_for_status()
                    told = answer.json()
                answers.add((told["id"], told["status"], json.dumps(told["output"])))
            if len(answers) != 1 or not all(status == "completed" for _, status, _ in answers):
                raise ValueError(f"one message, and {len(answers)} answers: {answers}")
        except Exception as error:  # noqa: BLE001 - as above
            self.row("tools: one effect", begun, error)
        else:
            self.row("tools: one effect", begun)


class Background(Talker):
    """Sends work to the background, and asks until it is done."""

    weight = 2
    wait_time = between(1.0, 3.0)

    @task
    def run_in_background(self) -> None:
        """Accepted, then polled on any pod."""
        body = {"model": "support", "input": "look up order 4711", "background": True}
        begun = time.perf_counter()
        try:
            with self.send(body, uuid.uuid4().hex, "background: send") as answer:
                answer.raise_for_status()
                told = answer.json()
            while told["status"] in {"queued", "in_progress"}:
                if time.perf_counter() - begun > PATIENCE_S:
                    raise TimeoutError(f"{told['status']} after {PATIENCE_S} s")
                time.sleep(0.2)
                told = self.client.get(self.url(f"/v1/responses/{told['id']}"), name="background: poll").json()
            if told["status"] != "completed":
                raise ValueError(told["status"])
        except Exception as error:  # noqa: BLE001 - as above
            self.row("background: until done", begun, error)
        else:
            self.row("background: until done", begun)


class Shape(LoadTestShape):
    """The shape that LOAD_SHAPE names."""

    def tick(self) -> tuple[int, float] | None:
        """(users, how many may be started a second); None when it is over."""
        seconds, users = float(os.environ.get("LOAD_SECONDS", "60")), int(os.environ.get("LOAD_USERS", "40"))
        at_s = self.get_run_time()
        if at_s >= seconds:
            return None
        return SHAPES[os.environ.get("LOAD_SHAPE", "ramp")](at_s, seconds, users), float(users)


def _events(answer: Any) -> Iterator[dict[str, Any]]:
    """The events of an SSE stream."""
    for line in answer.iter_lines():
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


@events.quitting.add_listener
def gate(environment: Environment, **_: Any) -> None:
    """The exit status is that of the thresholds."""
    rows = [
        Row(one.name, one.num_requests, one.num_failures, one.get_response_time_percentile(0.95) or 0.0)
        for one in environment.stats.entries.values()
    ]
    missed = judge(rows, read(THRESHOLDS))
    for one in missed:
        print(f"MISSED {one}")
    if not missed:
        print(f"All thresholds of {THRESHOLDS.name} are kept.")
    environment.process_exit_code = 1 if missed else 0
