"""What a turn works with: built once by `app`, shared by all runs of the pod."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agentrt.models.prices import Prices
from agentrt.models.registry import Models
from agentrt.runtime.allowance import Allowance
from agentrt.runtime.recollections import Recollections
from agentrt.runtime.scales import Scales
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
from agentrt.tracing import OFF, Tracing

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
    models: Models
    telemetry: Telemetry
    allowance: Allowance
    users: Users
    jobs: Jobs
    recollections: Recollections
    deps: Any = None
    scales: Scales = field(default_factory=Scales)
    prices: Prices = field(default_factory=Prices)
    tracing: Tracing = OFF
