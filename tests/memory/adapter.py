"""The memory as case files and data sets see it: `say`, `do`, `facts`, `search`, `context`, `dump`, over HTTP alone.

Two pods on one Redis, requests by turns; the extractor is a fake provider that answers what a case says. Tenants are
API keys. Ids that the API refuses are refused: then nothing is stored, and there is nothing to be found.
"""

from __future__ import annotations

import itertools
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx2
import redis

from agentrt.errors import SettingsError
from agentrt.http.auth import line_of, mint
from agentrt.memory.facts import fact_id
from agentrt.store.access import SCOPES
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.http.conftest import NO_TLS
from tests.memory.extractor import Extractor

SECRET = "a secret of the memory's tests"
TENANTS = ("t1", "t2", "acme", "acme2", "globex", "dev")
_SETTLE_S = 60.0
GUARD = os.environ.get("WITHOUT", "")


@dataclass
class Person:
    """What the adapter knows of one user: their conversation, their messages, how many turns must have arrived."""

    conversation: str = ""
    items: dict[str, str] = field(default_factory=dict)
    """Message of the case -> its response, or the item that was brought along."""
    turns: int = 0
    now: str = ""


class Names(dict[str, str]):
    """Messages by the run in whose item they stand, or by the item that was brought along."""

    def of(self, item: str) -> str:
        """The message of an item of a user; the item itself where it is none of the case."""
        return self.get(item, self.get(item[4:26], item))


class Refused(Exception):
    """The API refused the ids."""


class Adapter:
    """A deployment with a memory, and short ways to talk to it."""

    def __init__(self, tenants: Iterable[str] = TENANTS, pods: int = 2, env: Mapping[str, str] | None = None) -> None:
        self.redis = RedisServer()
        self.extractor = Extractor()
        self._folder = tempfile.TemporaryDirectory(prefix="agentrt-memory-")
        path = Path(self._folder.name) / "keys"
        self._keys: dict[str, str] = {}
        lines = []
        for tenant in sorted({*tenants, "t1"}):
            try:
                self._keys[tenant], identifier, record = mint(tenant, SECRET, SCOPES)
            except SettingsError:
                continue  # no tenant can have this name
            lines.append(line_of(identifier, record))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._env = {
            "AGENTRT_API_KEYS_FILE": str(path),
            "AGENTRT_API_KEYS_SECRET": SECRET,
            "AGENTRT_OPENAI_API_KEY": "none",
            "AGENTRT_OPENAI_BASE_URL": self.extractor.url,
            "AGENTRT_MAX_RUNS": "64",
            **(env or {}),
        }
        self._count = pods
        self.pods: list[Pod] = []
        self._clients: list[httpx2.Client] = []
        self.people: dict[tuple[str, str], Person] = {}
        self.sizes: list[tuple[int, int]] = []
        """Bytes kept before and after each compaction."""

    def __enter__(self) -> Adapter:
        self.redis.start()
        self.extractor.__enter__()
        # A negative control takes the guard out of the pods too.
        entry = ("-m", "tests.negative.pod_without", GUARD) if GUARD else ("-m", "agentrt.cli")
        self.pods = [
            Pod(self.redis.url, target="tests.memory.agents:agents", name=f"memory-{n}", env=self._env, entry=entry)
            for n in range(self._count)
        ]
        for pod in self.pods:
            pod.start(wait=False)
        for pod in self.pods:
            pod.wait_ready(180)
        self._clients = [httpx2.Client(base_url=pod.url, timeout=60, verify=NO_TLS) for pod in self.pods]
        self._turn = itertools.cycle(self._clients)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.close()
        for pod in self.pods:
            pod.stop()
        self.extractor.__exit__(kind, error, trace)
        self.redis.stop()
        self._folder.cleanup()

    def reset(self) -> None:
        """An empty deployment again."""
        self.extractor.open.set()
        self.extractor.status = 200
        self.wait_idle()
        with self.redis.client() as client:
            client.flushall()
        self.people.clear()
        self.extractor.answers.clear()
        self.sizes.clear()

    # --- HTTP -----------------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, tenant: str, **kwargs: Any) -> Any:
        """One request, to the pods by turns. Raises `Refused` for ids that cannot be."""
        if tenant not in self._keys:
            raise Refused(tenant)
        headers = {"authorization": f"Bearer {self._keys[tenant]}", **kwargs.pop("headers", {})}
        answer = next(self._turn).request(method, path, headers=headers, **kwargs)
        if answer.status_code == 400 or (answer.status_code == 404 and answer.json().get("detail") == "Not Found"):
            raise Refused(answer.text)
        assert answer.status_code == 200, (method, path, answer.status_code, answer.text)
        return answer.json()

    def user(self, method: str, tenant: str, user: str, rest: str = "", **kwargs: Any) -> Any:
        """A request to `/operator/users/{user}`."""
        return self.call(method, f"/operator/users/{quote(user, safe='')}{rest}", tenant, **kwargs)

    def person(self, tenant: str, user: str) -> Person:
        """What is known of a user; they get a conversation."""
        found = self.people.setdefault((tenant, user), Person())
        if not found.conversation:
            found.conversation = self.call("POST", "/v1/conversations", tenant, json={"user": user})["id"]
        return found

    # --- what case files want -------------------------------------------------------------------------------------

    def say(self, case: str, op: Mapping[str, Any]) -> bool:
        """A message; whether it was accepted."""
        tenant, user, text = op["tenant"], op["user"], op["text"]
        self.extractor.answers[text] = op.get("extract", [])
        try:
            person = self.person(tenant, user)
            if op.get("role", "user") == "user":
                self._say_as_user(case, op, person)
            else:
                self._bring_along(case, op, person)
        except Refused:
            return False
        person.now = max(person.now, op.get("at", ""))
        return True

    def _say_as_user(self, case: str, op: Mapping[str, Any], person: Person) -> None:
        body = {
            "model": "memory",
            "input": op["text"],
            "user": op["user"],
            "conversation": person.conversation,
            "metadata": {"agentrt_at": op["at"]} if "at" in op else {},
        }
        headers = {"idempotency-key": f"{case}-{op['id']}"}
        answer = self.call("POST", "/v1/responses", op["tenant"], json=body, headers=headers)
        assert answer["status"] == "completed"
        if op["id"] in person.items:
            return
        person.items[op["id"]] = answer["id"]
        person.turns += 2

    def _bring_along(self, case: str, op: Mapping[str, Any], person: Person) -> None:
        item = f"{case}-{op['id']}"
        turn = {"id": item, "role": op["role"], "text": op["text"], "conversation": person.conversation}
        if "at" in op:
            turn["at"] = op["at"]
        self.user("POST", op["tenant"], op["user"], "/turns", json={"items": [turn], "agent": "memory"})
        person.turns += op["id"] not in person.items
        person.items[op["id"]] = item

    def do(self, op: Mapping[str, Any]) -> None:
        """Any other step of a case."""
        tenant, user = op.get("tenant", "t1"), op.get("user", "u1")
        person = self.people.setdefault((tenant, user), Person())
        try:
            match op["op"]:
                case "compact":
                    before = self.size()
                    self.user("POST", tenant, user, "/compact", json={"at": person.now} if person.now else {})
                    self.sizes.append((before, self.size()))
                case "erase_user":
                    self.user("DELETE", tenant, user, json={})
                    self.people[tenant, user] = Person(now=person.now)
                case "forget_message":
                    self.user("DELETE", tenant, user, f"/turns/{self.item(tenant, person.items[op['id']])}")
                case "forget_fact":
                    self.user("DELETE", tenant, user, f"/facts/{self.fact_id(tenant, user, op)}")
                case "clock":
                    person.now = op["at"]
                case "hold":
                    self.extractor.open.clear()
                case "release":
                    self.extractor.open.set()
                case "restart":
                    self.restart()
                case other:
                    raise AssertionError(f"no such step: {other}")
        except Refused:
            return

    def item(self, tenant: str, where: str) -> str:
        """The id of the item in which a message was said."""
        if not where.startswith("resp_"):
            return where
        return str(self.call("GET", f"/v1/responses/{where}/input_items", tenant)["data"][0]["id"])

    def names(self, tenant: str) -> Names:
        """Which item is which message of the case, for all users of a tenant."""
        found = Names()
        for (theirs, _), person in self.people.items():
            if theirs == tenant:
                found.update(
                    (where[-22:] if where.startswith("resp_") else where, n) for n, where in person.items.items()
                )
        return found

    def restart(self) -> None:
        """Kill all pods and start them anew."""
        for pod in self.pods:
            pod.kill()
            pod.start(wait=False)
        for pod in self.pods:
            pod.wait_ready(180)

    def fact_id(self, tenant: str, user: str, op: Mapping[str, Any]) -> str:
        """The id of the fact that a step names by its key, or by part of it."""
        if "value" in op:
            negative = op.get("polarity", "+") == "-"
            return fact_id(op.get("subject", "user"), op["attribute"], op["value"], negative=negative)
        return next(one["id"] for one in self.facts(tenant, user) if one["attribute"] == op["attribute"])

    def settle(self, tenant: str, user: str) -> None:
        """Wait until what a user said is remembered and no job is left to do."""
        person = self.people.get((tenant, user))
        if person is None or tenant not in self._keys or not self.extractor.open.is_set():
            return
        deadline = time.monotonic() + _SETTLE_S
        try:
            while self.user("GET", tenant, user)["turns"] < person.turns:
                assert time.monotonic() < deadline, "what was said was not remembered in time"
                time.sleep(0.01)
        except Refused:
            return
        self.wait_idle()

    def wait_idle(self) -> None:
        """Wait until there is no job; those that were given up do not count."""
        deadline = time.monotonic() + _SETTLE_S
        while (state := self.call("GET", "/operator/jobs", "t1"))["jobs"]:
            assert time.monotonic() < deadline, f"jobs that do not end: {state}"
            time.sleep(0.01)

    def facts(self, tenant: str, user: str) -> list[dict[str, Any]]:
        """All facts of a user as they stand now; none where the ids are refused."""
        try:
            return list(self.user("GET", tenant, user, "/facts", params=self._now(tenant, user))["facts"])
        except Refused:
            return []

    def search(self, tenant: str, user: str, query: str, k: int, *, facts_only: bool = False) -> dict[str, Any]:
        """`{turns, facts}` for a question."""
        params = {"q": query, "k": str(k), **self._now(tenant, user), **({"kinds": "facts"} if facts_only else {})}
        try:
            return dict(self.user("GET", tenant, user, "/search", params=params))
        except Refused:
            return {"turns": [], "facts": []}

    def context(self, tenant: str, user: str, query: str, budget: int) -> dict[str, Any]:
        """What a turn with that message would be given."""
        body = {"query": query, "budget": budget, "agent": "memory", **self._now(tenant, user)}
        try:
            return dict(self.user("POST", tenant, user, "/context", json=body))
        except Refused:
            return {"text": "", "facts": [], "recalled": [], "tokens": {"total": 0}}

    def dump(self) -> bytes:
        """Every name and value that Redis holds."""
        with self.redis.client() as client:
            return b"\n".join(part for key in client.scan_iter(count=1000) for part in (key, *_values(client, key)))

    def _now(self, tenant: str, user: str) -> dict[str, str]:
        person = self.people.get((tenant, user))
        return {"at": person.now} if person is not None and person.now else {}

    def size(self) -> int:
        """Bytes of what is remembered, names and values."""
        with self.redis.client() as client:
            parts = [
                part
                for key in client.scan_iter(match="agentrt:{*/u:*", count=1000)
                if not key.endswith((b"}", b":sessions"))
                for part in _values(client, key)
            ]
            return sum(map(len, parts))

    # --- what recall measurements want ----------------------------------------------------------------------------

    def ingest(self, user: str, items: Sequence[Mapping[str, Any]], tenant: str = "t1") -> int:
        """Remember `{id, text, role?, at?, conversation?, speaker?}` and draw no facts; returns how many were new."""
        added = 0
        for start in range(0, len(items), 500):
            body = {"items": list(items[start : start + 500]), "agent": "recall"}
            added += self.user("POST", tenant, user, "/turns", json=body)["added"]
        return added

    def found(self, user: str, query: str, k: int, tenant: str = "t1") -> list[str]:
        """The ids of the `k` best turns."""
        return [hit["item"] for hit in self.search(tenant, user, query, k)["turns"]]


def _values(client: redis.Redis, key: bytes) -> list[bytes]:
    """All that a key holds, flat."""
    match client.type(key):
        case b"string":
            return [client.get(key) or b""]
        case b"hash":
            return [part for pair in client.hgetall(key).items() for part in pair]
        case b"list":
            return list(client.lrange(key, 0, -1))
        case b"set":
            return list(client.smembers(key))
        case b"zset":
            return list(client.zrange(key, 0, -1))
        case b"stream":
            return [part for _, fields in client.xrange(key) for pair in fields.items() for part in pair]
    return []


def stands(needle: str, dump: bytes) -> bool:
    """Whether a text is somewhere in a dump, other than by chance in the middle of a random id."""
    raw = re.escape(needle.encode())
    return re.search(rb"(?<![0-9A-Za-z]{6})" + raw + rb"|" + raw + rb"(?![0-9A-Za-z]{6})", dump) is not None
