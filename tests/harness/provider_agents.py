"""Agents on real provider adapters; the pods that serve them get the fakes' addresses from their environment."""

from agentrt.agent import Agent

agents = [
    Agent("both", model=["anthropic:claude-haiku-4-5", "openai:gpt-5"]),
    Agent("gpt", model="openai:gpt-5"),
    Agent("claude", model="anthropic:claude-haiku-4-5"),
]
