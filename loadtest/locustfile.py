"""The scenarios: chat, tools, background, memory. `make load` runs them; loadtest/README.md says how to read what comes
out.

Read from the environment: LOAD_HOSTS (comma list of pods; any of them takes any request; default: locust's --host),
LOAD_SHAPE (ramp, spike, soak), LOAD_SECONDS, LOAD_USERS, LOAD_THRESHOLDS, LOAD_QUEUE_MAX (more runs than that may not
wait for a pod), LOAD_KEY (the credential, if the pods want one).
"""

from __future__ import annotations

import json
import os
import random
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
from locust import HttpUser, LoadTestShape, between, events, task
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtest.gate import Row, judge, read
from loadtest.recovery import Times, recovered
from loadtest.shapes import SHAPES

THRESHOLDS = Path(os.environ.get("LOAD_THRESHOLDS", Path(__file__).with_name("thresholds.toml")))
HOSTS = [host for host in os.environ.get("LOAD_HOSTS", "").split(",") if host]
BUSY = {409, 429, 503}
"""Come again later, says `Retry-After`: not a failure of its own, but the time counts."""
PATIENCE_S = 60
REMEMBERED_S = 30
SHAPE = os.environ.get("LOAD_SHAPE", "ramp")
SECONDS, USERS = float(os.environ.get("LOAD_SECONDS", "60")), int(os.environ.get("LOAD_USERS", "40"))
QUEUE_MAX = int(os.environ.get("LOAD_QUEUE_MAX", "0"))
WATCHED = "chat: whole stream"
"""The row whose time must be back to normal after a spike."""
FINAL = {"response.completed", "response.failed", "response.incomplete"}
COUNT = "count to 20"


def credential() -> dict[str, str]:
    """The header that shows who asks; none without a key."""
    key = os.environ.get("LOAD_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


class Talker(HttpUser):
    """What all users share."""

    abstract = True
    host = HOSTS[0] if HOSTS else None

    def on_start(self) -> None:
        """Show who it is, where that matters."""
        self.client.headers.update(credential())

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
                    request_type="turn",
                    name=f"told to come again: {answer.status_code}",
                    response_time=0,
                    response_length=0,
                    context={},
                )
            time.sleep(min(5.0, float(answer.headers.get("Retry-After", 1))))
        raise TimeoutError(f"busy for {PATIENCE_S} s")


class Chat(Talker):
    """Reads and types between its turns; streams; its history has a length of its own from the beginning."""

    weight = 6
    wait_time = between(0.5, 2.0)

    def on_start(self) -> None:
        """A conversation, new or long."""
        super().on_start()
        self.acknowledged = self.sent = 0
        items = [
            {"type": "message", "role": "user", "content": f"an earlier message, number {number}"}
            for number in range(random.choice([0, 20, 200]))
        ]
        answer = self.client.post(self.url("/v1/conversations"), json={"items": items}, name="conversation")
        self.conversation = answer.json()["id"]

    @task
    def turn(self) -> None:
        """One turn, to its final event: a stream without one has failed, whatever its status was."""
        body = {"model": "support", "conversation": self.conversation, "input": COUNT, "stream": True}
        begun = time.perf_counter()
        self.sent += 1
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
        self.acknowledged += 1
        self.row(WATCHED, begun)

    def on_stop(self) -> None:
        """What was acknowledged is in the conversation, and nothing twice."""
        begun, found, query = time.perf_counter(), 0, {"limit": "100", "order": "asc"}
        try:
            while True:
                url = self.url(f"/v1/conversations/{self.conversation}/items")
                page = self.client.get(url, params=query, name="chat: history").json()
                found += sum(COUNT in json.dumps(one["content"]) for one in page["data"] if one["role"] == "user")
                if not page["has_more"]:
                    break
                query["after"] = page["last_id"]
            if not self.acknowledged <= found <= self.sent:
                raise ValueError(f"{self.acknowledged} turns of {self.sent} acknowledged, {found} stored")
        except Exception as error:  # noqa: BLE001 - as above
            self.row("chat: nothing lost", begun, error)
        else:
            self.row("chat: nothing lost", begun)


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


class Memory(Talker):
    """Tells its name in one conversation, and asks for it in others."""

    weight = 1
    wait_time = between(1.0, 3.0)

    def on_start(self) -> None:
        """A user nobody knows."""
        super().on_start()
        self.user_id, self.number = uuid.uuid4().hex, 0

    @task
    def remember(self) -> None:
        """The newest name is known elsewhere, as soon as it was drawn from what was said."""
        self.number += 1
        name = f"Ada{self.number}"
        begun = time.perf_counter()
        try:
            self.say(f"my name is {name}", "memory: tell")
            while name not in self.say("what is my name", "memory: ask"):
                if time.perf_counter() - begun > REMEMBERED_S:
                    raise TimeoutError(f"not known after {REMEMBERED_S} s")
                time.sleep(0.5)
        except Exception as error:  # noqa: BLE001 - as above
            self.row("memory: until known", begun, error)
        else:
            self.row("memory: until known", begun)

    def say(self, text: str, name: str) -> str:
        """The answer, in a conversation of its own."""
        body = {"model": "support", "input": text, "user": self.user_id}
        with self.send(body, uuid.uuid4().hex, name) as answer:
            answer.raise_for_status()
            return str(answer.json()["output"][-1]["content"][0]["text"])


class Shape(LoadTestShape):
    """The shape that LOAD_SHAPE names."""

    def tick(self) -> tuple[int, float] | None:
        """(users, how many may be started a second); None when it is over."""
        at_s = self.get_run_time()
        return None if at_s >= SECONDS else (SHAPES[SHAPE](at_s, SECONDS, USERS), float(USERS))


def _events(answer: Any) -> Iterator[dict[str, Any]]:
    """The events of an SSE stream."""
    for line in answer.iter_lines():
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


class Watch:
    """What is looked at while it goes on, where all results come together: the times of one row, and the queue."""

    def __init__(self) -> None:
        self.times = Times()
        self.queue = 0
        """Most runs that waited for a pod at once."""

    def start(self, environment: Environment) -> None:
        """Look until locust quits."""
        begun = time.monotonic()

        def look() -> None:
            while True:
                entry = environment.stats.get(WATCHED, "turn")
                self.times.add(time.monotonic() - begun, entry.response_times)
                if HOSTS and QUEUE_MAX:
                    asked = urllib.request.Request(HOSTS[0] + "/operator/queue", headers=credential())
                    with urllib.request.urlopen(asked, timeout=10) as answer:
                        self.queue = max(self.queue, json.load(answer)["depth"])
                gevent.sleep(1)

        gevent.spawn(look)

    def wrong(self) -> list[str]:
        """What is not as it should be."""
        found = recovered(self.times, SECONDS / 3, SECONDS * 2 / 3) if SHAPE == "spike" else []
        if QUEUE_MAX and self.queue > QUEUE_MAX:
            found.append(f"{self.queue} runs waited for a pod, {QUEUE_MAX} may")
        return found


watch = Watch()


@events.init.add_listener
def begin(environment: Environment, **_: Any) -> None:
    """Look, unless this is a worker, who knows its own users only."""
    if not isinstance(environment.runner, WorkerRunner):
        watch.start(environment)


@events.quitting.add_listener
def gate(environment: Environment, **_: Any) -> None:
    """The exit status is that of the thresholds."""
    if isinstance(environment.runner, WorkerRunner):
        return
    rows = [
        Row(one.name, one.num_requests, one.num_failures, one.get_response_time_percentile(0.95) or 0.0)
        for one in environment.stats.entries.values()
    ]
    missed = [*judge(rows, read(THRESHOLDS)), *watch.wrong()]
    for line in (*watch.times.lines(), f"at most {watch.queue} runs waited for a pod" if QUEUE_MAX else ""):
        print(line)
    for one in missed:
        print(f"MISSED {one}")
    if not missed:
        print(f"All thresholds of {THRESHOLDS.name} are kept.")
    environment.process_exit_code = 1 if missed else 0
