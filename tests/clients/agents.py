"""The agents of the scripted session: the demo's, and those that call the client's tools, fail, or take their time."""

from __future__ import annotations

from agentrt.demo import agents as demo
from tests.harness.client_agents import agents as more

agents = [*demo, *(agent for agent in more if agent.name in {"caller", "endless", "shell", "slow"})]
