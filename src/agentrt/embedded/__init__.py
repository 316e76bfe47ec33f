"""The embedded default: a private Redis, and pods under a supervisor."""

from agentrt.embedded.dev import run_dev
from agentrt.embedded.pods import Supervisor, reserve_port
from agentrt.embedded.redis import PrivateRedis, find_redis_server

__all__ = ["PrivateRedis", "Supervisor", "find_redis_server", "reserve_port", "run_dev"]
