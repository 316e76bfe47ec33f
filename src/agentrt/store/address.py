"""Where the settings say that Redis is, and one connection of redis-py to it, with nothing left to its defaults.

    redis://host:6379/0                                one server; rediss:// with TLS, unix:// for a socket
    redis+sentinel://host:26379,host2:26379/master/0   the master of that name, as the Sentinels know it
    redis+cluster://host:6379,host2:6379               a Cluster; any of its nodes will do, one that lives is enough

`rediss+sentinel` and `rediss+cluster` speak TLS. Certificates are verified unless the URL says `?ssl_cert_reqs=none`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from agentrt.errors import SettingsError

__all__ = ["Address", "RedisOptions", "Server", "check_url", "connect_kwargs", "new_connection", "read_url"]

_PORTS = {"sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """Where Redis is and how long anything may take."""

    url: str
    client_name: str = "agentrt"
    connect_timeout_s: float = 1.0
    reply_timeout_s: float = 1.0
    resend_budget_s: float = 2.0
    """How long a unit is sent again before its caller is told."""
    wait_replicas: int = 0
    """How many replicas must acknowledge what is marked so; 0: none are waited for."""
    wait_timeout_ms: int = 500
    credentials: tuple[str, str] | None = None
    """User and password instead of the URL's."""


class Server(NamedTuple):
    """A server's host and port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Address:
    """A URL, taken apart. `servers` and `master` are empty for one server; `kwargs` is what redis-py connects with."""

    kind: Literal["single", "sentinel", "cluster"]
    kwargs: dict[str, Any]
    servers: tuple[Server, ...] = ()
    master: str = ""
    sentinel_kwargs: dict[str, Any] = field(default_factory=dict)
    """Credentials of the Sentinels themselves: `sentinel_username` and `sentinel_password` of the URL's query."""


def read_url(url: str) -> Address:
    """Take a URL apart. Raises `ValueError` that says what is wrong with it."""
    scheme, mark, rest = url.partition("://")
    base, plus, kind = scheme.partition("+")
    if not plus:
        return Address("single", dict(parse_url(url)))
    if not mark or kind not in _PORTS or base not in {"redis", "rediss"}:
        raise ValueError("the scheme is not one of redis, rediss, unix, redis+sentinel, redis+cluster (or rediss+...)")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    servers = tuple(_server(host, _PORTS[kind]) for host in hosts.split(",") if host)
    if not servers:
        raise ValueError("no host is named")
    master = ""
    if kind == "sentinel":
        master, _, path = path.partition("/")
        if not master:
            raise ValueError("the name of the master is missing: redis+sentinel://host:26379/NAME/0")
    elif path not in {"", "0"}:
        raise ValueError("a Cluster has no databases but 0")
    if not (path or "0").isdigit():
        raise ValueError(f"not the number of a database: {path!r}")
    kwargs = dict(parse_url(f"{base}://{credentials}{at}any/{path or 0}?{query}"))
    kwargs = {name: value for name, value in kwargs.items() if name not in {"host", "port"}}
    own = {name: kwargs.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    sentinel_kwargs = {name: value for name, value in own.items() if value}
    return Address("sentinel" if kind == "sentinel" else "cluster", kwargs, servers, master, sentinel_kwargs)


def _server(text: str, port: int) -> Server:
    """`host`, `host:port`, `[v6]` or `[v6]:port`."""
    host, colon, number = text.rpartition(":")
    if not colon or number.endswith("]"):
        host, number = text, str(port)
    if not number.isdigit() or not host:
        raise ValueError(f"not a host and port: {text!r}")
    return Server(host.removeprefix("[").removesuffix("]"), int(number))


def check_url(url: str, setting: str) -> None:
    """Raises `SettingsError` that names `setting` when nobody could even try to connect to `url`."""
    try:
        read_url(url)
    except ValueError as error:
        raise SettingsError(f"{setting}: {error}") from error


def connect_kwargs(options: RedisOptions) -> dict[str, Any]:
    """No retries, no push notifications, RESP2, and times that are bounded."""
    return {
        "client_name": options.client_name,
        "socket_timeout": options.reply_timeout_s,
        "socket_connect_timeout": options.connect_timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def new_connection(options: RedisOptions, server: Server | None = None) -> AbstractConnection:
    """One connection, not yet connected, outside of any pool: to `server`, or to the one server of the URL."""
    try:
        address = read_url(options.url)
    except ValueError as error:
        raise SettingsError(f"not the URL of a Redis: {error}") from error
    kwargs = {**address.kwargs, **connect_kwargs(options)}
    if server is not None:
        kwargs.update(host=server.host, port=server.port)
    if options.credentials is not None:
        kwargs.update(username=options.credentials[0], password=options.credentials[1])
    connection: AbstractConnection = ConnectionPool(**kwargs).make_connection()  # type: ignore[no-untyped-call]
    return connection
