"""Runs that count against a quota: while they are worked on, and no longer."""

from __future__ import annotations

import asyncio

from agentrt.runtime.allowance import Allowance
from agentrt.store.access import Access, Quota, Quotas
from tests.store.stage import connected

ONE = Quota(runs=1)


async def entered(quotas: Quotas, tenant: str, member: str) -> str:
    return (await quotas.verdict(quotas.entering(tenant, member, ONE), ONE)).outcome


async def test_a_run_that_ends_while_others_are_held_is_gone(redis_url: str) -> None:
    """The hold goes from tenant to tenant; what ends between two of them does not come back into its quota."""
    async with connected(redis_url) as redis:
        quotas = Quotas(redis)
        allowance = Allowance(Access(redis), quotas, ONE)
        for number in range(5):
            assert await entered(quotas, f"t{number}", "s/r") == "ok"
            allowance.work(f"t{number}", "s", "r", again=False)
        holding = asyncio.create_task(allowance._hold_all())
        await asyncio.sleep(0)  # the first tenant's is on its way
        allowance.rest("t4", "s", "r", 5)
        await holding
        assert await entered(quotas, "t4", "s/r2") == "ok"
        assert await entered(quotas, "t3", "s/r2") == "runs"


async def test_what_counts_no_longer_is_held_only_where_it_may_have_stopped(redis_url: str) -> None:
    """A hold that arrives behind the end of its run changes nothing; a pod that takes a run over has it count again."""
    async with connected(redis_url) as redis:
        quotas = Quotas(redis)
        assert await entered(quotas, "acme", "s/r") == "ok"
        quotas.leave("acme", "s/r")
        await quotas.hold("acme", ["s/r"])
        assert await entered(quotas, "acme", "s/r2") == "ok"
        quotas.leave("acme", "s/r2")
        await quotas.hold("acme", ["s/r"], again=True)
        assert await entered(quotas, "acme", "s/r2") == "runs"
