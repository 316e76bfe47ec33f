"""`agentrt doctor`: findings as a table or as JSON, and what to do about them, in order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import click
import httpx2
import orjson
from prometheus_client.parser import text_string_to_metric_families

from agentrt.assembly import store_config, tenant_users
from agentrt.errors import AgentrtError
from agentrt.runtime.doctor import Doctor
from agentrt.runtime.findings import Finding, Verdict, worst
from agentrt.settings import Settings
from agentrt.store.connection import Redis, RedisOptions, check_url

__all__ = ["doctor"]

_STEPS = {
    1: "State is external",
    2: "Locks",
    3: "Schema",
    4: "Autoscaling",
    5: "Health and failover",
    6: "Thresholds",
}
_MARKS = {Verdict.PASS: "pass", Verdict.SKIP: "skip", Verdict.WARN: "warn", Verdict.FAIL: "FAIL"}
_COLOURS = {Verdict.PASS: "green", Verdict.SKIP: "white", Verdict.WARN: "yellow", Verdict.FAIL: "red"}
_TIMEOUT_S = 5.0


@click.command()
@click.option("--url", help="Ask this pod too, e.g. http://agentrt:80.")
@click.option("--json", "as_json", is_flag=True, help="Print {verdict, findings, plan} instead of a table.")
def doctor(url: str | None, as_json: bool) -> None:
    """Look at what agentrt rests on: Redis, locks, schema, queue, failover, thresholds; and say what to do.

    AGENTRT_REDIS_URL and the other settings say where. Writes nothing but names of its own, which expire. Exit
    status: 0 when nothing fails, warnings or not; 1 when something does.
    """
    try:
        findings = asyncio.run(_examine(url))
    except AgentrtError as error:
        raise click.ClickException(str(error)) from error
    verdict, plan = worst(findings), _plan(findings)
    if as_json:
        told = {"verdict": verdict, "findings": [asdict(finding) for finding in findings], "plan": plan}
        click.echo(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
    else:
        for line in _table(findings, plan):
            click.echo(line)
    if verdict is Verdict.FAIL:
        raise click.exceptions.Exit(1)


async def _examine(url: str | None) -> list[Finding]:
    settings = Settings.from_env()
    check_url(settings.redis_url, "AGENTRT_REDIS_URL")
    options = RedisOptions(settings.redis_url, client_name="agentrt-doctor", resend_budget_s=0.5)
    redis = Redis(options, tenant_users(settings))
    await redis.start()
    try:
        config = replace(store_config(settings), pod="doctor")
        findings = await Doctor(redis, options, config, settings.lock_urls).examine()
    finally:
        await redis.aclose()
    if url is not None:
        findings += await _ask_pod(url.rstrip("/"))
    return sorted(findings, key=lambda finding: finding.step)


async def _ask_pod(url: str) -> list[Finding]:
    try:
        async with httpx2.AsyncClient(base_url=url, timeout=_TIMEOUT_S) as client:
            ready, metrics = await asyncio.gather(client.get("/readyz"), client.get("/metrics"))
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        do = f"Does a pod listen there? curl -v {url}/livez"
        found = f"{url}: {type(error).__name__}: {error}"
        return [Finding(5, "the pod", Verdict.FAIL, found, do, "Nothing is served there.")]
    return [_readiness(url, ready), _exported(metrics)]


def _readiness(url: str, answer: httpx2.Response) -> Finding:
    pod = answer.headers.get("x-agentrt-pod")
    if pod is None:
        return Finding(
            5, "the pod", Verdict.FAIL, f"{url} is no pod of agentrt", "Correct --url.", "It is not looked at."
        )
    if answer.status_code == 200:
        return Finding(5, "the pod", Verdict.PASS, f"{pod} is ready")
    do = f"curl {url}/readyz says which check, for how long; the pod's log says more."
    return Finding(5, "the pod", Verdict.FAIL, f"{pod} is not ready: {answer.text[:200]}", do, "It gets no traffic.")


def _exported(answer: httpx2.Response) -> Finding:
    try:
        families = list(text_string_to_metric_families(answer.text)) if answer.status_code == 200 else []
    except ValueError:
        families = []
    depth = next((one.samples[0].value for one in families if one.name == "agentrt_queue_depth"), math.nan)
    if not math.isnan(depth):
        return Finding(4, "the metric", Verdict.PASS, f"the pod exports agentrt_queue_depth = {depth:.0f}")
    do, risk = "Is Redis reachable from the pod? See its /readyz.", "The autoscaler sees nothing and does nothing."
    return Finding(4, "the metric", Verdict.FAIL, "agentrt_queue_depth is not exported", do, risk)


def _plan(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """What is left to do, failures first, in the order of the steps; the risk of leaving it."""
    todo = [one for verdict in (Verdict.FAIL, Verdict.WARN) for one in findings if one.verdict is verdict]
    return [{"check": one.check, "verdict": one.verdict, "do": one.do, "risk": one.risk} for one in todo]


def _table(findings: Sequence[Finding], plan: Sequence[dict[str, Any]]) -> Iterator[str]:
    width = max(len(finding.check) for finding in findings)
    for step, title in _STEPS.items():
        yield click.style(f"{step} {title}", bold=True)
        for one in findings:
            if one.step == step:
                mark = click.style(_MARKS[one.verdict], fg=_COLOURS[one.verdict])
                yield f"  {mark}  {one.check:{width}}  {one.found}"
    yield click.style("7 What to do", bold=True)
    for number, todo in enumerate(plan, 1):
        yield f"  {number}. {todo['check']}: {todo['do']}"
        yield f"     else: {todo['risk']}"
    if not plan:
        yield "  nothing"
