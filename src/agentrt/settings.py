"""Every setting, in one place: the environment variable, its default, its meaning. `agentrt serve --help` prints them.

Read once, by `app` and `cli`; everything below gets plain values.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from agentrt.errors import SettingsError

__all__ = ["Settings", "describe"]

_PREFIX = "AGENTRT_"
_LOG_LEVELS = ("debug", "info", "warning", "error")
_PREFLIGHT = ("off", "warn", "fail")


def _setting(default: Any, text: str, low: int | None = None) -> Any:
    return field(default=default, metadata={"help": text, "low": low})


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one pod. Field `redis_url` is `AGENTRT_REDIS_URL`, and so on."""

    redis_url: str = _setting(
        "redis://127.0.0.1:6379/0",
        "redis://, rediss://, unix://, redis+sentinel://host,host/master or redis+cluster://host,host",
    )
    lock_redis_urls: str = _setting(
        "", "independent Redis masters for named locks, an odd number, comma between; default: the state Redis"
    )
    redis_tenant_user: str = _setting(
        "",
        "each tenant's own Redis user, a name with {tenant} in it; default: one for all; see `agentrt keys acl`",
    )
    redis_tenant_secret: str = _setting("", "secret of which the passwords of these users are made")
    redis_tenants_max: int = _setting(64, "tenants whose connections a pod keeps at once, where they have users", 1)
    pod: str = _setting("", "this pod's name in headers, leases and logs; default: the host's name and the pid")
    auth: str = _setting("on", "`off`: accept any credential, all as tenant `dev`, elsewhere than on loopback too")
    api_keys_file: str = _setting("", "file of API keys, beside those in Redis; see `agentrt keys`")
    api_keys_secret: str = _setting(
        "", "secret of the HMAC under which API keys are kept; with it, only keys are let in"
    )
    tenant_runs: int = _setting(0, "runs in flight of a tenant without a quota of its own; 0: no limit", 0)
    tenant_turns_per_minute: int = _setting(0, "its turns a minute", 0)
    tenant_tokens_per_day: int = _setting(0, "its tokens a day", 0)
    max_runs: int = _setting(256, "runs that this pod works on at once", 1)
    queue_limit: int = _setting(10_000, "runs that may wait for a pod before new ones get a 429", 0)
    attempts_max: int = _setting(3, "pods that may die of a run before it goes to the dead letters", 1)
    drain_s: int = _setting(5, "after SIGTERM: unready, but serving, so that load balancers notice", 0)
    drain_runs_s: int = _setting(15, "then: time for runs to end before they are handed over to other pods", 0)
    lease_ms: int = _setting(10_000, "how long an owner is believed to live without a sign", 100)
    lock_ttl_ms: int = _setting(30_000, "lock of an effect, renewed while the tool lives", 100)
    wait_ms: int = _setting(20_000, "how long a message waits for a busy session before its 409", 0)
    waiters_max: int = _setting(64, "messages that may wait for one session", 0)
    session_ttl_s: int = _setting(30 * 86_400, "a session is kept this long after its last turn", 60)
    alone_ttl_s: int = _setting(
        86_400, "so long is a session kept that no later message can name: chat completions, `store: false`", 60
    )
    events_ttl_s: int = _setting(86_400, "the event log of a run is kept this long", 60)
    window_items: int = _setting(50, "newest items of the history that are read for a turn", 1)
    body_bytes_max: int = _setting(4 * 1024 * 1024, "longest request body", 1024)
    item_bytes_max: int = _setting(256 * 1024, "longest single item", 1024)
    items_max: int = _setting(512, "items in one request", 1)
    memory_jobs: int = _setting(4, "jobs of the memory that this pod does at once; 0: none, other pods do them", 0)
    memory_ttl_s: int = _setting(400 * 86_400, "what is remembered of a user is kept this long after the last turn", 60)
    memory_turns_ttl_s: int = _setting(0, "raw turns are forgotten after this long, facts stay; 0: as the rest", 0)
    memory_turns_max: int = _setting(50_000, "raw turns kept of one user, the newest; 0: any number", 0)
    memory_retention_file: str = _setting(
        "", "JSON file of how long tenants' turns, summaries and facts are kept, see docs/memory.md"
    )
    receipt_secret: str = _setting("", "secret that signs the receipts of erasures; default: that of the API keys")
    redis_timeout_ms: int = _setting(1_000, "longest wait for a reply of Redis", 10)
    wait_replicas: int = _setting(
        0, "replicas that must acknowledge the intent of an at_most_once effect, and a background run; 0: none", 0
    )
    wait_timeout_ms: int = _setting(500, "how long to wait for them before the effect is postponed", 10)
    wait_turns: str = _setting("off", "`on`: wait for them at the end of every turn, before its client is told")
    model_gap_s: int = _setting(60, "longest silence of a model provider within a call, its first byte included", 1)
    prices_file: str = _setting("", "JSON file of prices per million tokens, by model; default: costs are not counted")
    openai_api_key: str = _setting("", "key of OpenAI or a compatible server; OPENAI_API_KEY works too")
    openai_base_url: str = _setting("", "base URL of it; OPENAI_BASE_URL works too")
    openai_chat_api_key: str = _setting("", "key of the server behind `openai-chat:` models, if it wants one")
    openai_chat_base_url: str = _setting("", "base URL of a server that speaks OpenAI's chat completions")
    anthropic_api_key: str = _setting("", "key of Anthropic; ANTHROPIC_API_KEY works too")
    anthropic_base_url: str = _setting("", "base URL of it; ANTHROPIC_BASE_URL works too")
    log_level: str = _setting("info", "debug, info, warning or error")
    log_format: str = _setting("text", "`json`: one object a line, with pod, run and trace")
    deletion_cost_s: int = _setting(
        0,
        "seconds between looks whether to tell Kubernetes anew how much work this pod has, so that scaling in takes "
        "idle pods first; wants a service account that may patch pods; 0: never",
        0,
    )
    preflight: str = _setting(
        "warn", "at the start, look whether Redis is fit, as `agentrt doctor` does: off, warn, fail"
    )

    @property
    def lock_urls(self) -> tuple[str, ...]:
        """The URLs of `lock_redis_urls`; none: locks are on the state Redis."""
        return tuple(url for url in map(str.strip, self.lock_redis_urls.split(",")) if url)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read the environment. Raises `SettingsError` that names the variable."""
        source = os.environ if env is None else env
        values: dict[str, Any] = {}
        for item in fields(cls):
            name = _PREFIX + item.name.upper()
            raw = source.get(name)
            if raw is None and item.name.startswith(("openai_", "anthropic_")):
                raw = source.get(item.name.upper())
            if raw is None or raw == "":
                continue
            values[item.name] = _number(name, raw, item.metadata["low"]) if item.type == "int" else raw
        values.setdefault("pod", f"{socket.gethostname()}-{os.getpid()}")
        settings = cls(**values)
        if settings.api_keys_file and not Path(settings.api_keys_file).is_file():
            raise SettingsError(f"AGENTRT_API_KEYS_FILE: no such file: {settings.api_keys_file}")
        if settings.auth not in {"on", "off"}:
            raise SettingsError("AGENTRT_AUTH must be `on` or `off`")
        if settings.redis_tenant_user and settings.redis_tenant_user.count("{tenant}") != 1:
            raise SettingsError("AGENTRT_REDIS_TENANT_USER must have {tenant} in it, once")
        if settings.redis_tenant_user and not settings.redis_tenant_secret:
            raise SettingsError("AGENTRT_REDIS_TENANT_SECRET is not set")
        if settings.wait_turns not in {"on", "off"}:
            raise SettingsError("AGENTRT_WAIT_TURNS must be `on` or `off`")
        urls = settings.lock_urls
        if urls and len(urls) % 2 == 0:
            raise SettingsError(f"AGENTRT_LOCK_REDIS_URLS: a majority wants an odd number of Redis, not {len(urls)}")
        if len(set(urls)) < len(urls):
            raise SettingsError("AGENTRT_LOCK_REDIS_URLS: a Redis is named twice, and would have two votes")
        if settings.preflight not in _PREFLIGHT:
            raise SettingsError(f"AGENTRT_PREFLIGHT must be one of {', '.join(_PREFLIGHT)}")
        if settings.log_format not in {"text", "json"}:
            raise SettingsError("AGENTRT_LOG_FORMAT must be `text` or `json`")
        if settings.log_level not in _LOG_LEVELS:
            raise SettingsError(f"AGENTRT_LOG_LEVEL must be one of {', '.join(_LOG_LEVELS)}")
        return settings


def _number(name: str, raw: str, low: int) -> int:
    try:
        value = int(raw)
    except ValueError:
        raise SettingsError(f"{name} must be a whole number, not {raw!r}") from None
    if value < low:
        raise SettingsError(f"{name} must be at least {low}, not {value}")
    return value


def describe() -> list[tuple[str, str, str]]:
    """(variable, default, meaning) of every setting, for the help text and the table in docs/operations.md."""
    return [(_PREFIX + item.name.upper(), str(item.default), str(item.metadata["help"])) for item in fields(Settings)]
