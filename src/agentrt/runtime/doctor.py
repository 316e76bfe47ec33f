"""`agentrt doctor`: what a deployment rests on, looked at where it really is, in the order in which it matters."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from agentrt.errors import AgentrtError, SettingsError, StoreError, StoreUnavailable
from agentrt.records import SCHEMA_VERSION
from agentrt.runtime.findings import Finding, Verdict, judge_configuration, judge_failover, judge_vitals, worst
from agentrt.store.connection import Redis, RedisOptions, Unit
from agentrt.store.keys import QueueKeys, new_id
from agentrt.store.locks import LockConfig, open_locks
from agentrt.store.notices import Notices
from agentrt.store.ownership import StoreConfig
from agentrt.store.probe import Probe
from agentrt.store.queue import Queue
from agentrt.store.sample import BIG_BYTES, take_sample
from agentrt.store.schema import Schema
from agentrt.store.vitals import Vitals
from agentrt.telemetry import Telemetry

__all__ = ["Doctor", "preflight"]

log = logging.getLogger("agentrt.doctor")

_PROBE_S = 2.0
_SAMPLE_KEYS = 5_000
_OLD_S = 60.0
_SKEW_S = 1.0
_HOT_SHARE = 0.5
_CONFIG = ("save", "appendfsync", "min-replicas-to-write")

_CURES = {
    "unreachable": "Start Redis, or correct AGENTRT_REDIS_URL; redis-cli -u $AGENTRT_REDIS_URL ping",
    "timeout": "Redis does not answer in time: redis-cli --latency, redis-cli SLOWLOG GET",
    "readonly": "AGENTRT_REDIS_URL names a replica: name the master, or redis+sentinel://, which finds it",
    "oom": "Redis is full: redis-cli CONFIG SET maxmemory to more",
    "loading": "Redis loads its data: wait",
    "misconf": "Redis cannot write to its disk: look at its log and at df -h",
    "noreplicas": "Too few replicas are there for min-replicas-to-write: bring them back",
    "noauth": "Put the password into AGENTRT_REDIS_URL: redis://user:password@host:6379/0",
    "wrongpass": "The password in AGENTRT_REDIS_URL is not right",
    "noperm": "redis-cli ACL SETUSER with the rule of docs/operations.md, Redis; ACL LOG says what was refused",
}


class Doctor:
    """Looks at the state Redis and at the lock nodes. Writes only under names of its own, which expire."""

    def __init__(self, redis: Redis, options: RedisOptions, config: StoreConfig, lock_urls: Sequence[str]) -> None:
        self._redis = redis
        self._options = options
        self._config = config
        self._lock_urls = lock_urls
        self._queue = QueueKeys()

    async def examine(self) -> list[Finding]:
        """All findings, by step. Does not raise for anything that Redis does or does not do."""
        reachable, findings = await self._state()
        if not reachable:
            steps = ((2, "locks"), (3, "schema"), (4, "queue"), (5, "failover"), (6, "thresholds"))
            return findings + [Finding(step, check, Verdict.SKIP, "Redis is not there") for step, check in steps]
        for look in (self._locks, self._clocks, self._schema, self._backlog, self._server):
            try:
                findings += await look()
            except StoreError as error:
                reason = error.reason if isinstance(error, StoreUnavailable) else "refused"
                step = {self._schema: 3, self._backlog: 4, self._server: 6}.get(look, 2)
                name = look.__name__.strip("_")
                findings.append(Finding(step, name, Verdict.FAIL, str(error), _cure(reason), "It does not work."))
        return sorted(findings, key=lambda finding: finding.step)

    async def _state(self) -> tuple[bool, list[Finding]]:
        probe = Probe(self._options, self._config.pod)
        reason = await probe.ask(_PROBE_S)
        await probe.aclose()
        if reason is None:
            return True, [Finding(1, "write and read back", Verdict.PASS, "as written")]
        found = Finding(1, "write and read back", Verdict.FAIL, reason, _cure(reason), "Every request gets 503.")
        return reason not in {"unreachable", "timeout", "noauth", "wrongpass", "loading"}, [found]

    async def _locks(self) -> list[Finding]:
        notices = Notices(self._redis, self._options, self._config.pod)
        config = LockConfig(self._config.pod, self._config.lock_ms)
        locks = await open_locks(self._lock_urls, self._redis, notices, config, Telemetry())
        where = f"a majority of {len(self._lock_urls)} masters" if self._lock_urls else "the state Redis"
        try:
            fences = []
            for _ in range(2):
                async with locks.hold("doctor", "agentrt-doctor", new_id(), _PROBE_S) as held:
                    fences.append(held.fence)
        except AgentrtError as error:
            reason = error.reason if isinstance(error, StoreUnavailable) else "unreachable"
            do, risk = _cure(reason), "Tools under named locks fail."
            return [Finding(2, "acquire and release", Verdict.FAIL, f"on {where}: {error}", do, risk)]
        finally:
            await locks.aclose()
            await notices.aclose()
        grown = Finding(2, "acquire and release", Verdict.PASS, f"on {where}; the fence grew")
        if int(fences[1]) > int(fences[0]):
            return [grown]
        found = f"the fence fell from {fences[0]} to {fences[1]}"
        do = "Correct the clocks of Redis' hosts (chronyc tracking)."
        return [Finding(2, "fence", Verdict.FAIL, found, do, "Somebody who paused may overwrite what came after.")]

    async def _clocks(self) -> list[Finding]:
        skews: dict[str, float] = {}
        nodes = [("the state Redis", self._redis)]
        opened = [Redis(RedisOptions(url, "agentrt-doctor", resend_budget_s=0.5)) for url in self._lock_urls]
        await asyncio.gather(*(node.start() for node in opened))
        nodes += [(f"lock master {number}", node) for number, node in enumerate(opened, 1)]
        findings = []
        for name, node in nodes:
            asked = time.time()
            try:
                ((seconds, micros),) = await node.execute(Unit(self._queue.slot).command("TIME"))
            except StoreUnavailable as error:
                do, risk = _cure(error.reason), "One more that is away, and no lock is to be had."
                findings.append(Finding(2, name, Verdict.WARN, str(error), do, risk))
                continue
            skews[name] = int(seconds) + int(micros) / 1e6 - (asked + time.time()) / 2
        await asyncio.gather(*(node.aclose() for node in opened))
        apart = max(skews.values()) - min(skews.values()) if skews else 0.0
        most = max((abs(skew) for skew in skews.values()), default=0.0)
        found = f"{len(skews)} clocks, {apart:.3f} s apart, {most:.3f} s from this host's"
        if max(apart, most) <= _SKEW_S:
            return [*findings, Finding(2, "clocks", Verdict.PASS, found)]
        do, risk = "Run chrony on every host of Redis.", "After a failover the fence may fall; see docs/guarantees.md."
        return [*findings, Finding(2, "clocks", Verdict.WARN, found, do, risk)]

    async def _schema(self) -> list[Finding]:
        sample = await take_sample(self._redis, _SAMPLE_KEYS)
        among = f"among {sample.keys} keys"
        state = await Schema(self._redis).state()
        written = f"version {state.writes} is written"
        findings = [_none(3, "schema", f"{written}; all of version {SCHEMA_VERSION} {among}")]
        if sample.newer or (state.writes or 0) > SCHEMA_VERSION:
            do, risk = "Upgrade agentrt everywhere, or finish the rollout.", "This version answers 503 for them."
            findings = [
                Finding(3, "schema", Verdict.FAIL, f"{written}; {sample.newer} sessions are newer {among}", do, risk)
            ]
        elif sample.older:
            later = "by its next turn" if state.writes == SCHEMA_VERSION else "once `agentrt schema bump` was said"
            found = f"{written}; {sample.older} sessions are older {among}; each is brought up {later}"
            findings = [_none(3, "schema", found)]
        if sample.immortal:
            do = "They are no keys of agentrt's, or a defect: look at them, then UNLINK them."
            found = f"{len(sample.immortal)} {among}, e.g. {sample.immortal[0]}"
            findings.append(Finding(3, "keys without a TTL", Verdict.WARN, found, do, "Memory that never comes back."))
        else:
            findings.append(_none(3, "keys without a TTL", f"none {among}"))
        if sample.big:
            name, size = max(sample.big, key=lambda one: one[1])
            do, risk = "Lower AGENTRT_EVENTS_TTL_S or the tools' output.", "Redis stands still when it is handled."
            found = f"{len(sample.big)} above {BIG_BYTES >> 20} MiB {among}, e.g. {name}: {size >> 20} MiB"
            findings.append(Finding(3, "big keys", Verdict.WARN, found, do, risk))
        else:
            findings.append(_none(3, "big keys", f"none {among}"))
        (tag, count) = next(iter(sample.tags.most_common(1)), ("", 0))
        if sample.keys >= 1000 and count > _HOT_SHARE * sample.keys:
            do, risk = "One conversation has most of the keys: let it end.", "On a Cluster one node has all the work."
            found = f"{count} of {sample.keys} keys are in {{{tag}}}"
            findings.append(Finding(3, "hot slots", Verdict.WARN, found, do, risk))
        if sample.foreign:
            do, risk = "Give agentrt a Redis of its own.", "Others use its memory, its CPU and its maxmemory-policy."
            findings.append(Finding(3, "strangers", Verdict.WARN, f"{sample.foreign} keys {among}", do, risk))
        return findings

    async def _backlog(self) -> list[Finding]:
        depth = await Queue(self._redis, self._config).depth()
        found = f"{depth.waiting} runs wait, the oldest for {depth.oldest_s:.0f} s"
        findings = [Finding(4, "queue", Verdict.PASS, found)]
        if depth.oldest_s > _OLD_S:
            do, risk = "Add pods, or a pod that has the agents they ask for.", "Clients wait."
            findings = [Finding(4, "queue", Verdict.WARN, found, do, risk)]
        if depth.dead:
            do, risk = "agentrt queue dead list, then retry or drop.", "Each is a request without a result."
            findings.append(Finding(4, "dead letters", Verdict.WARN, str(depth.dead), do, risk))
        else:
            findings.append(_none(4, "dead letters", "none"))
        (now,) = await self._redis.execute(Unit(self._queue.slot).command("TIME"))
        late = f"({int(now[0]) * 1000 - self._config.lease_ms}"
        (left,) = await self._redis.execute(Unit(self._queue.slot).command("ZCOUNT", self._queue.leases, "-inf", late))
        if left:
            do, risk = "Start pods: whoever lives sweeps every second.", "Runs of dead pods are not finished."
            findings.append(Finding(4, "leases", Verdict.WARN, f"{left} ran out and nobody took them", do, risk))
        else:
            findings.append(_none(4, "leases", "none is overdue"))
        return findings

    async def _server(self) -> list[Finding]:
        info = await Vitals(self._redis).info()
        config = await _configuration(self._redis)
        return judge_configuration(info, config) + judge_failover(info, config) + judge_vitals(info)


def _cure(reason: str) -> str:
    return _CURES.get(reason, f"Redis says {reason}: look at its log.")


def _none(step: int, check: str, found: str) -> Finding:
    return Finding(step, check, Verdict.PASS, found)


async def _configuration(redis: Redis) -> dict[str, str]:
    """What CONFIG GET tells of `_CONFIG`; nothing where it is refused, as on managed servers."""
    unit = Unit(QueueKeys().slot)
    for name in _CONFIG:
        unit.command("CONFIG", "GET", name)
    try:
        replies = await redis.execute(unit)
    except StoreError as error:
        log.debug("CONFIG is refused: %s", error)
        return {}
    return {reply[0].decode(): reply[1].decode() for reply in replies if reply}


async def preflight(options: RedisOptions, mode: str) -> None:
    """Look at Redis before the first request; `mode` is `off`, `warn` or `fail`. Raises `SettingsError` for the unfit.

    A Redis that is away is no finding: pods start without it and wait, or its outage would become a crash loop.
    """
    if mode == "off":
        return
    redis = Redis(replace(options, resend_budget_s=0.5))
    await redis.start()
    try:
        info = await Vitals(redis).info()
        config = await _configuration(redis)
    except StoreError as error:
        log.warning("preflight: Redis could not be asked: %s", error)
        return
    finally:
        await redis.aclose()
    findings = judge_configuration(info, config) + judge_failover(info, config)
    for finding in findings:
        if finding.verdict in {Verdict.WARN, Verdict.FAIL}:
            log.warning("preflight: %s: %s. %s %s", finding.check, finding.found, finding.risk, finding.do)
    if mode == "fail" and worst(findings) is Verdict.FAIL:
        named = "; ".join(f"{one.check}: {one.found}" for one in findings if one.verdict is Verdict.FAIL)
        raise SettingsError(f"this Redis is not fit (AGENTRT_PREFLIGHT=fail): {named}. Ask `agentrt doctor`.")
