"""langgraph with its AsyncPostgresSaver: a graph of one node, the least it can do; a pool of connections.

(Its Redis saver needs RedisJSON and RediSearch, which a plain Redis has not.)
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

__all__ = ["Framework"]


async def _echo(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(f"echo: {state['messages'][-1].content}")]}


class Framework:
    """One compiled graph; the session is its thread."""

    async def start(self, stack: AsyncExitStack, redis_url: str, postgres_url: str) -> None:  # noqa: ARG002
        options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            postgres_url, min_size=16, max_size=16, kwargs=options, open=False
        )
        await stack.enter_async_context(pool)
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        graph = StateGraph(MessagesState)
        graph.add_node("model", _echo)
        graph.add_edge(START, "model")
        graph.add_edge("model", END)
        self._graph = graph.compile(checkpointer=saver)

    async def prefill(self, session: str, texts: list[tuple[str, str]]) -> None:
        messages = [one for said, answered in texts for one in (HumanMessage(said), AIMessage(answered))]
        await self._graph.aupdate_state(
            {"configurable": {"thread_id": session}}, {"messages": messages}, as_node="model"
        )

    async def turn(self, session: str, text: str) -> str:
        config: Any = {"configurable": {"thread_id": session}}
        state = await self._graph.ainvoke({"messages": [HumanMessage(text)]}, config)
        return str(state["messages"][-1].content)
