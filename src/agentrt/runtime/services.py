"""What a turn works with: built once by `app`, shared by all runs of the pod."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentrt.models.base import Model
from agentrt.runtime.recollections import Recollections
from agentrt.store.conversations import Conversations
from agentrt.store.doubts import Doubts
from agentrt.store.events import Events
from agentrt.store.jobs import Jobs
from agentrt.store.journal import Journal
from agentrt.store.leases import Leases
from agentrt.store.locks import Locks
from agentrt.store.notices import Notices
from agentrt.store.ownership import StoreConfig
from agentrt.store.queue import Queue
from agentrt.store.sessions import Sessions
from agentrt.store.users import Users
from agentrt.telemetry import Telemetry

__all__ = ["Services"]


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the store, the models and the metrics."""

    config: StoreConfig
    sessions: Sessions
    conversations: Conversations
    journal: Journal
    doubts: Doubts
    events: Events
    leases: Leases
    locks: Locks
    queue: Queue
    notices: Notices
    models: Callable[[str], Model]
    telemetry: Telemetry
    users: Users
    jobs: Jobs
    recollections: Recollections
    deps: Any = None
