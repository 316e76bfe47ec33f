"""`make bench-peers`: the same turn in other frameworks, next to the floor and to a pod, in one run.

Each framework has an environment of its own (`.venv-peers/NAME`, from `NAME.lock`) and is a process behind the same
HTTP as the floor; what is measured is the CPU of that process, and of the store that it keeps its sessions in.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

import orjson
from tests.harness.redis_server import RedisServer

from loadtest.driver import ROOT, Driver
from loadtest.figures import Plot, Section, Table, command_line, number, say
from loadtest.measure import Cost, Shape, measure
from loadtest.peers.postgres import Postgres, find_postgres
from loadtest.servers import LOAD_CORE, SERVER_CORE, TEXT, AgentrtPod, FloorProcess, Served, Server, on_core

HISTORIES = (10, 100, 1_000)
CONCURRENCY = 4
PEERS = {
    "openai_agents": "openai-agents, RedisSession, newest 50",
    "agno_redis": "agno, RedisDb, newest 50",
    "langgraph_postgres": "langgraph, AsyncPostgresSaver",
}
ENVIRONMENTS = ROOT / ".venv-peers"


class PeerProcess:
    """One framework, as a server to measure."""

    def __init__(self, name: str, redis_url: str, postgres_url: str) -> None:
        self.name = PEERS[name]
        python = ENVIRONMENTS / name / "bin" / "python"
        stores = ("--redis-url", redis_url, "--postgres-url", postgres_url)
        self._served = Served("loadtest.peers.server", name, *stores, python=str(python))

    @property
    def pids(self) -> Sequence[int]:
        return [self._served.pid]

    @property
    def ports(self) -> Sequence[int]:
        return [self._served.port]

    def prefill(self, count: int, items: int) -> list[str]:
        names = [secrets.token_hex(11) for _ in range(count)]
        body = orjson.dumps({"sessions": names, "text": TEXT, "turns": items // 2})
        with closing(HTTPConnection("127.0.0.1", self._served.port, timeout=300)) as http:
            http.request("POST", "/prefill", body)
            response = http.getresponse()
            if response.status != 200:
                raise RuntimeError(f"{self.name}: {response.read(300).decode(errors='replace')}")
        return names

    def sent(self) -> None:
        return None

    def close(self) -> None:
        self._served.close()


@dataclass(frozen=True, slots=True)
class _Contender:
    server: Server
    store_pid: int


@contextmanager
def _contenders(redis: RedisServer, stack: ExitStack) -> Iterator[list[_Contender]]:
    """The floor first. A framework without its environment, or without its store, is left out, and it is said."""
    programs = find_postgres()
    with on_core(LOAD_CORE):
        postgres = stack.enter_context(Postgres(programs)) if programs else None
    with on_core(SERVER_CORE):
        servers: list[Server] = [FloorProcess(redis.url, redis.client()), AgentrtPod(redis.url)]
        found = [_Contender(stack.enter_context(closing(server)), redis.pid) for server in servers]
        for name, title in PEERS.items():
            on_postgres = name.endswith("_postgres")
            missing = None if (ENVIRONMENTS / name).exists() else "its environment is not there: make bench-peers"
            if on_postgres and postgres is None:
                missing = "there is no Postgres on this machine"
            if missing is not None:
                print(f"{title}: left out, {missing}")
                continue
            peer = PeerProcess(name, redis.url, postgres.url if postgres is not None else "")
            pid = postgres.pid if on_postgres and postgres is not None else redis.pid
            found.append(_Contender(stack.enter_context(closing(peer)), pid))
    yield found


Costs = Mapping[str, Mapping[int, list[Cost]]]


def _measure(redis: RedisServer, driver: Driver, contenders: Sequence[_Contender], rounds: int, turns: int) -> Costs:
    """By name and history, a round each. Fewer turns for the long ones, and a first, short slice that nobody counts."""
    costs: Costs = {one.server.name: {history: [] for history in HISTORIES} for one in contenders}
    with redis.client() as client:
        for one in contenders:
            say(f"{one.server.name}, warming up")
            measure(one.server, driver, client, one.store_pid, Shape(CONCURRENCY, CONCURRENCY * 4, 10))
        for _ in range(rounds):
            for history in HISTORIES:
                for one in contenders:
                    say(f"{one.server.name}, {history:,} items")
                    few = max(CONCURRENCY * 2, turns // (1 + history // 100))
                    shape = Shape(CONCURRENCY, few, history)
                    costs[one.server.name][history].append(measure(one.server, driver, client, one.store_pid, shape))
    return costs


# --- the section of the page ------------------------------------------------------------------------------------------

_TEXT = """A turn is one message to a session of 10, 100 and 1,000 items, answered by an echo that takes no
time, through the framework's own runner and session store, behind the same Starlette and uvicorn as the floor,
4 at once. Only the first two rows are this project's: the floor has no safety at all, agentrt all of it; the
frameworks have no lease, no fence, no journal and no deduplication in these set-ups. They are set up as their
guides have it, with a window of 50 where they know one; what a real application adds is not in it. Versions:
`loadtest/peers/*.lock`. langgraph's Redis saver needs modules that a plain Redis has not, so its Postgres saver
is measured, with fsync off."""


def section(costs: Costs, redis_version: str) -> Section:
    """No goal: what others do for the same turn."""
    floor = costs["floor"]
    rows, series, kept = [], {}, {}
    for name, by_history in costs.items():
        cells = [name]
        points = []
        for group, history in enumerate(HISTORIES):
            cpu = median(cost["cpu_us"] for cost in by_history[history])
            pairs = zip(by_history[history], floor[history], strict=True)
            ratio = median(ours["cpu_us"] / base["cpu_us"] for ours, base in pairs)
            cells.append(f"{number(cpu / 1000)} ({ratio:.1f})")
            points.append((float(group), cpu / 1000))
            kept[f"{name} {history} ratio"] = ratio
        cells += [number(median(cost["redis_cpu_us"] for cost in by_history[n]) / 1000) for n in HISTORIES]
        rows.append(cells)
        series[name] = points
    of_server = [f"{n:,} items: CPU, ms (× floor)" for n in HISTORIES]
    table = Table(["", *of_server, *(f"CPU of its store, {n:,}, ms" for n in HISTORIES)], rows)
    plot = Plot("peers-cpu", "CPU of a turn, by history", "items", "ms", series, "bars", [f"{n:,}" for n in HISTORIES])
    title = "The same turn in other frameworks"
    return Section("peers", title, _TEXT, (), [table], [plot], kept, (), redis_version)


def measured(quick: bool) -> Section:
    """All that are installed, measured."""
    rounds, turns = (1, 32) if quick else (3, 200)
    with ExitStack() as stack, on_core(LOAD_CORE), RedisServer() as redis, closing(Driver()) as driver:
        with _contenders(redis, stack) as contenders:
            costs = _measure(redis, driver, contenders, rounds, turns)
        return section(costs, redis.version)


if __name__ == "__main__":
    Path(ENVIRONMENTS).mkdir(exist_ok=True)
    command_line("peers", "The same turn in other frameworks.", measured)
