"""Calls that a person must approve: asked for at the end of one response, answered by the input of the next.

The effect keeps the key under which it was planned: whoever approves it twice approves one effect.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentrt.agent import Tool
from agentrt.errors import ToolError
from agentrt.models.base import ToolCall
from agentrt.runtime.calls import Call
from agentrt.runtime.clock import wall_ms
from agentrt.runtime.effects import Effects
from agentrt.runtime.insist import insist
from agentrt.runtime.output import Output
from agentrt.store.journal import Journal
from agentrt.store.ownership import Owned

__all__ = ["answered", "asks"]


def asks(tool: Tool | None, call: ToolCall) -> bool:
    """Whether this call waits for an approval. One that cannot be run anyway does not."""
    if tool is None or not tool.approval:
        return False
    try:
        tool.parse(call.arguments)
    except ToolError:
        return False
    return True


async def answered(
    owned: Owned,
    inputs: Sequence[Mapping[str, Any]],
    tools: dict[str, Tool],
    effects: Effects,
    output: Output,
    journal: Journal,
    private: Mapping[str, Any],
) -> list[Call]:
    """The calls that the run before asked approval for, as the first step of this one.

    Approved is what an `mcp_approval_response` of the input approves; anything else is a denial.
    """
    answers = {one["approval_request_id"]: one for one in inputs if one.get("type") == "mcp_approval_response"}
    calls = []
    for index, approval in enumerate(owned.approvals):
        asked = await insist(functools.partial(journal.planned, owned, approval.run, approval.key))
        if asked is None:
            continue  # its record has outlived its TTL, and with it the right to run it
        call = ToolCall(asked.call_id, asked.tool, asked.arguments)
        slot = output.server_call(call, private, approval.request)
        planned = replace(
            asked,
            step=0,
            index=index,
            item=slot.data["id"],
            output_index=slot.index,
            attempt=owned.attempt,
            fence=owned.fence,
            at=wall_ms(),
        )
        answer = answers.get(approval.request, {})
        prepared = effects.prepare(planned, tools)
        if not answer.get("approve"):
            effects.deny(prepared, str(answer.get("reason") or ""))
        calls.append(prepared)
    return calls
