"""What goes wrong with runs, effects and pods."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress

import httpx2

from agentrt.store.keys import QueueKeys
from tests.harness.runs import keys_of, record, status
from tests.operate.causes.stage import SHORT, Stage, cause, until

KEYS = QueueKeys()


@cause("AgentrtEffectInDoubt", "AgentrtEffectInDoubtOld")
def effect_in_doubt(stage: Stage) -> Iterator[None]:
    """A pod is killed in an `at_most_once` call that nobody can ask about; then the doubt is made 16 minutes older."""
    server = stage.redis()
    dying = {"KILL_AT": "after the effect", "KILL_LOG": str(stage.folder / "steps")}
    client = stage.client(server)
    victim = stage.pod(server.url, entry=("-m", "tests.harness.pod_that_dies"), **SHORT, **dying)
    yield
    stage.ask(victim, "worker", "wire", background=True)
    until(lambda: not victim.alive, 60, "the death")
    stage.pods.remove(victim)
    stage.pod(server.url, **SHORT)
    until(lambda: client.zcard(KEYS.doubts) == 1, 60, "the doubt")
    for member, since_ms in client.zrange(KEYS.doubts, 0, -1, withscores=True):
        client.zadd(KEYS.doubts, {member: since_ms - 960_000})
    yield


@cause("AgentrtQueueOld")
def queue_stuck(stage: Stage) -> Iterator[None]:
    """The only slot is taken by a long run, and another one waits; then its wait is made a minute longer."""
    server = stage.redis()
    pod, client = stage.pod(server.url, AGENTRT_MAX_RUNS="1"), stage.client(server)
    yield
    stage.ask(pod, "slow", "word " * 3000, background=True)
    stage.ask(pod, "echo", "hi", background=True)
    until(lambda: client.zcard(KEYS.ready) == 1, 20, "the queue")
    for member, since_ms in client.zrange(KEYS.since, 0, -1, withscores=True):
        client.zadd(KEYS.since, {member: since_ms - 61_000})
    yield


@cause("AgentrtDeadLetters")
def dead_letter(stage: Stage) -> Iterator[None]:
    """A run kills the pod that works on it, and is given up by the next."""
    server = stage.redis()
    env = {**SHORT, "AGENTRT_ATTEMPTS_MAX": "1"}
    victim, client = stage.pod(server.url, **env), stage.client(server)
    bait = stage.folder / "bait"
    yield
    bait.touch()
    with suppress(httpx2.HTTPError):
        stage.ask(victim, "poison", str(bait))
    stage.pods.remove(victim)
    stage.pod(server.url, **env)
    until(lambda: client.hlen(KEYS.dead) == 1, 60, "the dead letter")
    yield
    client.delete(KEYS.dead)
    yield


@cause("AgentrtMemoryJobsBuried")
def memory_jobs_buried(stage: Stage) -> Iterator[None]:
    """A job of the memory is of an agent that no pod has any more; then it is made to be its last try."""
    server = stage.redis()
    stage.pod(server.url)
    client = stage.client(server)
    yield
    client.hset(KEYS.marks, "user/dev/u1/nobody#", 100)
    client.zadd(KEYS.jobs, {"user/dev/u1/nobody": 0})
    until(lambda: client.hlen(KEYS.buried) == 1, 20, "the end of the tries")
    yield
    client.delete(KEYS.buried)
    yield


@cause("AgentrtMemoryJobsLate")
def memory_jobs_late(stage: Stage) -> Iterator[None]:
    """A thousand users and one have jobs that are due, and no pod does any."""
    server = stage.redis()
    stage.pod(server.url, AGENTRT_MEMORY_JOBS="0")
    client = stage.client(server)
    yield
    client.zadd(KEYS.jobs, {f"user/dev/u{number}/worker": 0 for number in range(1001)})
    yield
    client.delete(KEYS.jobs)
    yield


@cause("AgentrtOwnershipLost")
def ownership_lost(stage: Stage) -> Iterator[None]:
    """A pod stands still (SIGSTOP) for longer than its lease, and wakes up to find its run another's."""
    server = stage.redis()
    sleeper, client = stage.pod(server.url, **SHORT), stage.client(server)
    stage.pod(server.url, **SHORT)
    yield
    response = stage.ask(sleeper, "slow", "word " * 400, background=True)["id"]
    until(lambda: int(record(client, response).get("log", -1)) >= 2, 20, "the run")
    sleeping = record(client, response)["pod"]
    pod = next(one for one in stage.pods if one.name == sleeping)
    pod.signal(signal.SIGSTOP)
    until(lambda: record(client, response)["pod"] != sleeping, 30, "the claim")
    pod.signal(signal.SIGCONT)
    yield


@cause("AgentrtIdentityMismatch")
def identity_mismatch(stage: Stage) -> Iterator[None]:
    """A stranger writes another tenant into a conversation, and somebody goes on with it."""
    server = stage.redis()
    pod, client = stage.pod(server.url), stage.client(server)
    yield
    first = stage.ask(pod, "echo", "hi")
    client.hset(keys_of(first["id"])[0].hash, "tenant", "rival")
    with suppress(httpx2.HTTPStatusError):
        stage.ask(pod, "echo", "hi", previous_response_id=first["id"])
    yield


@cause("AgentrtPodNotReady")
def pod_locked_out(stage: Stage) -> Iterator[None]:
    """One of two pods loses its user in Redis."""
    server = stage.redis()
    client = stage.client(server)
    client.execute_command("ACL", "SETUSER", "second", "on", ">secret", "~*", "&*", "+@all")
    stage.pod(server.url)
    stage.pod(server.url.replace("//", "//second:secret@"))
    yield
    client.execute_command("ACL", "DELUSER", "second")
    yield
    client.execute_command("ACL", "SETUSER", "second", "on", ">secret", "~*", "&*", "+@all")
    yield


@cause("AgentrtNoticesSilent")
def notices_silent(stage: Stage) -> Iterator[None]:
    """The pod's subscription is cut, and it may not subscribe again."""
    server = stage.redis()
    client = stage.client(server)
    stage.pod(server.url)
    yield
    client.execute_command("ACL", "SETUSER", "default", "-subscribe", "-psubscribe")
    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    yield
    client.execute_command("ACL", "SETUSER", "default", "+@all")
    yield


@cause("AgentrtTurnErrorsFast", "AgentrtTurnErrorsSlow")
def turns_fail(stage: Stage) -> Iterator[None]:
    """A model refuses every second message."""
    server = stage.redis()
    pod, client = stage.pod(server.url), stage.client(server)
    stage.ask(pod, "echo", "hi")
    yield

    def fail() -> None:
        for agent in ("echo", "failing"):
            response = stage.ask(pod, agent, "hi", background=True)["id"]
            until(lambda named=response: status(client, named) in {"completed", "failed"}, 20, "the end")  # type: ignore[misc]

    stage.meanwhile(fail, 0.1)
    yield


@cause("AgentrtFirstTokenSlowFast", "AgentrtFirstTokenSlowSlow")
def first_token_late(stage: Stage) -> Iterator[None]:
    """A model takes more than five seconds for its first word."""
    server = stage.redis()
    pod = stage.pod(server.url)
    yield
    stage.meanwhile(lambda: stage.ask(pod, "late", "hi"), 0.2, threads=4)
    yield
