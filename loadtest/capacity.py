"""`make capacity`: docs/capacity.md, from the bench's figures and the simulation; measures nothing itself.

`--core-hour` and `--gib-hour` are prices; the others say how people talk.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from loadtest.driver import ROOT
from loadtest.figures import Section, Table, kept, number
from loadtest.plot import svg
from loadtest.provider import PIECES
from loadtest.simulation.autoscaler import Rules
from loadtest.simulation.check import Compared, compare, times_of
from loadtest.simulation.study import autoscaling, latencies, throughput
from loadtest.simulation.system import Times

__all__ = ["Need", "Use", "need", "reckoned"]

SESSIONS = (1_000, 100_000, 10_000_000)
_MODEL_S = 1.0
"""Of the simulated turns: what is added to it, and what pods and shards carry, does not depend on it."""
NEEDED = ("turns", "scaling", "shards", "streams", "tools", "providers")


@dataclass(frozen=True, slots=True)
class Use:
    """How people talk, and what things cost. Each is a flag of the command line."""

    think_s: float = 60.0
    """Between an answer and the next message of a session that somebody has open."""
    reply_tokens: float = 300.0
    tokens_s: float = 60.0
    """How fast the model speaks."""
    tokens_event: float = 3.0
    """Tokens in one event of a provider's stream."""
    tool_steps: float = 0.3
    """Steps with a tool call in a turn, on average."""
    item_kb: float = 1.0
    kept_items: float = 60.0
    """Items of an open session, tool calls among them."""
    kept_runs: float = 20.0
    """Runs of it whose records are kept for retries."""
    slots: float = 256.0
    """AGENTRT_MAX_RUNS."""
    pod_busy: float = 0.6
    """Share of its core that a pod may use; the rest is for spikes and for lost pods."""
    shard_busy: float = 0.5
    shard_gib: float = 16.0
    """Data of a master; as much again is free for copies on write."""
    replicas: float = 1.0
    core_hour: float = 0.04
    gib_hour: float = 0.005

    @property
    def reply_s(self) -> float:
        return self.reply_tokens / self.tokens_s


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one turn in µs: a pod's CPU, a session's shard, the queue's shard; bytes of an open session."""

    pod_us: float
    shard_us: float
    queue_us: float
    session_bytes: float


@dataclass(frozen=True, slots=True)
class Need:
    """What so many open sessions need. `pods_for`, `shards_for`: what asks for the most of them."""

    sessions: int
    turns_s: float
    running: float
    pods: int
    pods_for: str
    shards: int
    shards_for: str
    queue_busy: float
    """Share of one core that the shard of the queue needs for leases alone; above 1 it cannot be had."""
    data_gib: float
    hour: float


def cost(use: Use, found: Mapping[str, Mapping[str, float]]) -> Cost:
    """A turn as people have them, out of what was measured apart."""
    turns, shards, streams, tools = (found[name] for name in ("turns", "shards", "streams", "tools"))
    events = use.reply_tokens / use.tokens_event
    spoken = events * (streams["token_cpu_us"] + found["providers"]["anthropic_adapter_cpu_us"] / PIECES)
    pod_us = turns["cpu_us_16_100"] + spoken + use.tool_steps * tools["step_cpu_us_1"]
    shard_us = turns["redis_cpu_us_16_100"] - shards["lease_redis_us"]
    shard_us += events * streams["token_redis_cpu_us"] + use.tool_steps * tools["step_redis_cpu_us_1"]
    item = max(0.0, shards["item_bytes"] - 300) + use.item_kb * 1024
    held = shards["session_bytes"] + use.kept_items * item + use.kept_runs * (shards["run_bytes"] + use.item_kb * 1024)
    return Cost(pod_us, shard_us, shards["lease_redis_us"], held)


def need(sessions: int, use: Use, of: Cost) -> Need:
    """Pods, shards and money for so many sessions that somebody has open. Pure."""
    rate = sessions / (use.think_s + use.reply_s)
    running = rate * use.reply_s
    pods = {"CPU": rate * of.pod_us / 1e6 / use.pod_busy, "slots": running / (use.slots * 0.7), "one to spare": 2.0}
    data_gib = sessions * of.session_bytes / 2**30
    shards = {"CPU": rate * of.shard_us / 1e6 / use.shard_busy, "memory": data_gib / use.shard_gib, "one": 1.0}
    pods_for, shards_for = (max(each, key=lambda name: each[name]) for each in (pods, shards))
    n_pods, n_shards = math.ceil(pods[pods_for]), math.ceil(shards[shards_for])
    servers = n_shards * (1 + use.replicas)
    hour = n_pods * (use.core_hour + use.gib_hour / 2) + servers * (use.core_hour + 2 * use.shard_gib * use.gib_hour)
    queue_busy = rate * of.queue_us / 1e6
    return Need(sessions, rate, running, n_pods, pods_for, n_shards, shards_for, queue_busy, data_gib, hour)


# --- the page ---------------------------------------------------------------------------------------------------------

_PAGE = """# Capacity

Written by `make capacity` from `loadtest/results/`; do not edit. What was measured, where and when, stands in
[benchmarks.md](benchmarks.md); here it is reckoned with. Everything was measured on two cores, one for what
is measured, one for Redis and the load.

## What a turn takes

{use}

{cost}

## What that comes to

{needs}

Pods are one core and half a GiB each; a shard is a core and {shard_gib:.0f} GiB of data, twice that in memory, with
{replicas:.0f} replica. Prices are assumptions, `--core-hour {core_hour} --gib-hour {gib_hour}`, and every other
assumption is a flag too: `python -m loadtest.capacity --help`. What the model provider takes is not in it, and is
usually the greater part by far.

## Partitioning

- A session's keys share one slot (`{{tenant/session}}`): every script of a turn is at one master, and sessions spread
  over masters by hash, {slots:,} slots in all. A move of a slot moves whole sessions.
- A user's memory has a slot of its own, a named lock too: a lock that everybody wants, or a user who is a machine, is a
  hot key on one master. A session cannot be one: it has one run at a time.
- The leases and the queue are in **one** slot. Every turn enters and ends one lease there, some {lease:.0f} µs of that
  master's CPU: at {queue_limit:,.0f} turns/s it has nothing left, however many masters and pods there are.

## What gives way first

1. **The pods' CPU**: more pods. {pod_share} Most of it is the provider's stream, event by event.
2. **The shards' CPU**, {shard_part:.0%} of the pods', most of it the event log of what is streamed: more masters.
3. **Memory of Redis** for sessions that nobody talks in any more: `AGENTRT_SESSION_TTL_S` bounds them.
4. **The queue's shard**, at {queue_limit:,.0f} turns/s ({queue_sessions} open sessions as above). Put its slot on a
   master of its own (`CLUSTER SETSLOT`); beyond that run several deployments, with tenants spread over them.
5. **Connections**: three a pod at one Redis, where no replicas are waited for. 1,000 pods are some 3,000; `maxclients`
   is 10,000 where nobody has set it.

## The simulation

A discrete-event model (`loadtest/simulation`): pods with a core and slots, shards, the queue, the balancer, an HPA with
the chart's rules. Its engine is held to M/M/c and M/G/1 by `tests/unit/test_simulation.py`. It knows no lost pods, no
network, no persistence of Redis.

**Checked against real runs** of 1, 2 and 4 pods on one core (`loadtest.scaling`, {scaling}). The time of a hop to
Redis is taken from one run, marked; everything else is predicted. The pods got {share:.0%} of their core, since others
were at work on the machine; the model gets as much.

{checked}

{verdict}

With CPU as measured on cores of their own, hops of 0.2 ms, models of {model_s:.0f} s and {model_slots} slots:

{plots}

A spike to ten times the load, two pods of 4 slots to begin with, pods that need 10 s to start:

{spike}
"""


def _costs_table(of: Cost) -> str:
    rows = [
        ("CPU of a pod", f"{of.pod_us / 1000:.1f} ms"),
        ("CPU of the session's shard", f"{of.shard_us / 1000:.2f} ms"),
        ("CPU of the queue's shard, its lease", f"{of.queue_us:.0f} µs"),
        ("data of an open session", f"{of.session_bytes / 1024:.0f} KiB"),
    ]
    return Table(("a turn, or a session", ""), rows).markdown()


def _needs_table(needs: Sequence[Need]) -> str:
    head = (
        "open sessions",
        "turns/s",
        "running at once",
        "pods (for)",
        "shards (for)",
        "queue's shard busy",
        "data, GiB",
    )
    rows = [
        (
            f"{one.sessions:,}",
            number(one.turns_s),
            number(one.running),
            f"{one.pods:,} ({one.pods_for})",
            f"{one.shards:,} ({one.shards_for})",
            f"{one.queue_busy:.1%}" if one.queue_busy < 1 else f"**{one.queue_busy:.1f} of one**",
            number(one.data_gib),
            f"{one.hour:,.2f} ({one.hour / one.sessions * 1000:.3f})",
        )
        for one in needs
    ]
    return Table((*head, "an hour (for 1,000 sessions)"), rows).markdown()


def _checked_table(compared: Sequence[Compared]) -> str:
    rows = []
    for one in compared:
        pairs = [f"{number(real)} / {number(said)}" for real, said in zip(one.real, one.predicted, strict=True)]
        off = one.predicted[0] / one.real[0] - 1
        rows.append(
            (f"{one.pods}", f"{one.connections}", *pairs, "taken from here" if one.calibrated else f"{off:+.0%}")
        )
    head = ("pods", "connections", "turns/s real / simulated", "p50, ms", "p95, ms", "turns/s off by")
    return Table(head, rows).markdown()


def _verdict(compared: Sequence[Compared]) -> str:
    off = sorted(abs(one.predicted[0] / one.real[0] - 1) for one in compared if not one.calibrated)
    late = sorted(abs(one.predicted[1] / one.real[1] - 1) for one in compared if not one.calibrated)
    return (
        f"Throughput is off by {off[len(off) // 2]:.0%} in the middle and {off[-1]:.0%} at most, the median latency by "
        f"{late[len(late) // 2]:.0%} and {late[-1]:.0%}: believe what follows no further than that."
    )


def _use_text(use: Use) -> str:
    return (
        f"A session that somebody has open: a message every {use.think_s:.0f} s after the last answer, which is "
        f"{use.reply_tokens:.0f} tokens long and takes {use.reply_s:.0f} s to say, streamed; {use.tool_steps:g} steps "
        f"with a tool call; {use.kept_items:.0f} items of {use.item_kb:g} KB and {use.kept_runs:.0f} runs kept."
    )


def reckoned(use: Use, sections: Mapping[str, Section]) -> tuple[str, str]:
    """The tables that no simulation is needed for: what a turn takes, and what that comes to."""
    of = cost(use, {name: section.figures for name, section in sections.items()})
    return _costs_table(of), _needs_table([need(sessions, use, of) for sessions in SESSIONS])


def render(use: Use, sections: Mapping[str, Section]) -> tuple[str, dict[str, str]]:
    """The page, and its pictures by name."""
    found = {name: section.figures for name, section in sections.items()}
    of = cost(use, found)
    costs, needs = reckoned(use, sections)
    compared = compare(found["scaling"], found["shards"])
    _, share = times_of(found["scaling"], found["shards"])
    quiet = Times(of.pod_us / 1e6, of.shard_us / 1e6, 0.0002, _MODEL_S, lease_redis=of.queue_us / 1e6)
    slots = int(use.slots)
    spike, spiked = autoscaling(quiet, 4, 5, 50, Rules())
    plots = [throughput(quiet, (1, 4, 16, 64), (10, 100, 1_000), slots), latencies(quiet, 20, slots)]
    pictures = {plot.name: svg(plot) for plot in (*plots, spike)}
    queue_limit = 1e6 / of.queue_us
    stamp = sections["scaling"].stamp
    text = _PAGE.format(
        use=_use_text(use),
        cost=costs,
        needs=needs,
        shard_gib=use.shard_gib,
        replicas=use.replicas,
        core_hour=use.core_hour,
        gib_hour=use.gib_hour,
        slots=16_384,
        lease=of.queue_us,
        queue_limit=queue_limit,
        queue_sessions=f"{queue_limit * (use.think_s + use.reply_s):,.0f}",
        pod_share=f"A core carries {1e6 / of.pod_us:.0f} such turns a second.",
        shard_part=of.shard_us / of.pod_us,
        scaling=f"commit {stamp.commit}, {stamp.date}" if stamp else "",
        share=share,
        checked=_checked_table(compared),
        verdict=_verdict(compared),
        model_s=_MODEL_S,
        model_slots=slots,
        plots="\n\n".join(f"![{plot.title}](plots/{plot.name}.svg)" for plot in plots),
        spike=Table(("", ""), [(name, number(value)) for name, value in spiked.items()]).markdown()
        + f"\n\n![{spike.title}](plots/{spike.name}.svg)",
    )
    return text, pictures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.capacity", description=__doc__)
    for one in fields(Use):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=float, default=one.default, help="%(default)s")
    use = Use(**vars(parser.parse_args()))
    sections = {name: section for name in NEEDED if (section := kept(name)) is not None}
    if missing := [name for name in NEEDED if name not in sections]:
        parser.error(f"no results yet of {', '.join(missing)}: make bench")
    text, pictures = render(use, sections)
    (ROOT / "docs" / "capacity.md").write_text(text, encoding="utf-8")
    for name, picture in pictures.items():
        (ROOT / "docs" / "plots" / f"{name}.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
