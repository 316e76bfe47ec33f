"""Who may do what: keys, tenants, and a start without keys."""

from __future__ import annotations

import hashlib
import hmac
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from agentrt.errors import SettingsError
from agentrt.http.auth import Keys, read_keys
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer, free_port
from tests.harness.warm import agentrt
from tests.http.conftest import NO_TLS
from tests.http.wire import UNKNOWN, history, new_conversation, say

SECRET = "a secret of the tests"


def _cli(*args: str, secret: str = SECRET) -> subprocess.CompletedProcess[str]:
    return agentrt(*args, env={"AGENTRT_API_KEYS_SECRET": secret})


def _create(tenant: str, path: Path) -> str:
    made = _cli("keys", "create", "--tenant", tenant, "--file", str(path))
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


@dataclass(frozen=True)
class Guarded:
    """A pod that wants keys; two of tenant t1, one of t2."""

    pod: Pod
    file: Path
    t1: str
    t1_too: str
    t2: str


@pytest.fixture(scope="module")
def guarded(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("keys")
    path = folder / "keys"
    keys = [_create(tenant, path) for tenant in ("t1", "t1", "t2")]
    env = {
        "AGENTRT_API_KEYS_FILE": str(path),
        "AGENTRT_API_KEYS_SECRET": SECRET,
        "AGENTRT_DEMO_DB": str(folder / "demo.db"),
    }
    with Pod(redis_server.url, name="guarded", env=env) as pod:
        yield Guarded(pod, path, *keys)


def _client(guarded: Guarded, key: str) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx2.AsyncClient(base_url=guarded.pod.url, headers=headers, timeout=30, verify=NO_TLS)


@pytest.fixture
async def t1(guarded: Guarded) -> AsyncIterator[httpx2.AsyncClient]:
    async with _client(guarded, guarded.t1) as client:
        yield client


@pytest.fixture
async def t2(guarded: Guarded) -> AsyncIterator[httpx2.AsyncClient]:
    async with _client(guarded, guarded.t2) as client:
        yield client


CONV, RESP = f"conv_{UNKNOWN}", f"resp_{UNKNOWN}{UNKNOWN}"
ROUTES = [
    ("POST", "/v1/responses"),
    ("GET", f"/v1/responses/{RESP}"),
    ("GET", f"/v1/responses/{RESP}?stream=true"),
    ("DELETE", f"/v1/responses/{RESP}"),
    ("POST", f"/v1/responses/{RESP}/cancel"),
    ("GET", f"/v1/responses/{RESP}/input_items"),
    ("POST", "/v1/conversations"),
    ("GET", f"/v1/conversations/{CONV}"),
    ("POST", f"/v1/conversations/{CONV}"),
    ("DELETE", f"/v1/conversations/{CONV}"),
    ("GET", f"/v1/conversations/{CONV}/items"),
    ("POST", f"/v1/conversations/{CONV}/items"),
    ("GET", f"/v1/conversations/{CONV}/items/msg_{UNKNOWN}0"),
    ("DELETE", f"/v1/conversations/{CONV}/items/msg_{UNKNOWN}0"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/echo"),
]


def _wrong_credentials(guarded: Guarded) -> dict[str, str | None]:
    _, identifier, secret = guarded.t1.split("_", 2)
    other = guarded.t2.split("_", 2)[1]
    return {
        "none": None,
        "empty": "",
        "no scheme": guarded.t1,
        "other scheme": f"Basic {guarded.t1}",
        "no key": "Bearer",
        "malformed": "Bearer x",
        "no secret": f"Bearer ak_{identifier}",
        "empty secret": f"Bearer ak_{identifier}_",
        "wrong secret": f"Bearer ak_{identifier}_{secret[:-1]}",
        "longer secret": f"Bearer {guarded.t1}x",
        "unknown id": f"Bearer ak_000000000000_{secret}",
        "another's id": f"Bearer ak_{other}_{secret}",
        "wrong prefix": f"Bearer xx_{identifier}_{secret}",
        "the stored line": f"Bearer {guarded.file.read_text().splitlines()[0]}",
        "odd characters": "Bearer ak_é_\u00b2",
        "long": "Bearer ak_" + "x" * 8000,
    }


async def test_no_route_answers_without_a_right_key(guarded: Guarded) -> None:
    bodies = set()
    async with _client(guarded, "") as client:
        for name, value in _wrong_credentials(guarded).items():
            headers = {} if value is None else {"Authorization": value.encode("latin-1")}
            for method, path in ROUTES:
                answered = await client.request(method, path, headers=headers)
                assert answered.status_code == 401, (name, method, path)
                assert answered.headers["x-agentrt-pod"] == "guarded"
                bodies.add(answered.content)
    assert len(bodies) == 1  # what was wrong with it is not told
    assert b"invalid_api_key" in bodies.pop()


async def test_a_refused_request_is_not_read(guarded: Guarded) -> None:
    async with _client(guarded, "") as client:
        answered = await client.post("/v1/responses", content=b"{" + b" " * (5 * 1024 * 1024))
    assert answered.status_code == 401


async def test_a_401_says_how_to_authenticate(guarded: Guarded) -> None:
    """RFC 9110: a 401 must bear `WWW-Authenticate`."""
    async with _client(guarded, "") as client:
        assert (await client.get("/v1/models")).headers["www-authenticate"].startswith("Bearer")


async def test_a_right_key_works_however_it_is_written(guarded: Guarded) -> None:
    async with _client(guarded, "") as client:
        for scheme in ("Bearer", "bearer", "BEARER", "Bearer "):
            answered = await client.get("/v1/models", headers={"Authorization": f"{scheme} {guarded.t1}"})
            assert answered.status_code == 200, scheme


async def test_probes_need_no_key(guarded: Guarded) -> None:
    async with _client(guarded, "") as client:
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 200


async def test_the_keys_of_a_tenant_share_its_conversations(guarded: Guarded, t1: httpx2.AsyncClient) -> None:
    conversation = await new_conversation(t1)
    async with _client(guarded, guarded.t1_too) as other:
        assert (await say(other, "hello", conversation=conversation)).status_code == 200
    assert len(await history(t1, conversation)) == 2


async def test_what_is_anothers_looks_exactly_like_what_is_not_there(
    t1: httpx2.AsyncClient, t2: httpx2.AsyncClient
) -> None:
    """On every route, in every byte up to the id."""
    conversation = await new_conversation(t1)
    made = (await say(t1, "my name is Ada", conversation=conversation)).json()
    before = await history(t1, conversation)
    real = {"conv": conversation, "resp": made["id"], "item": made["output"][0]["id"]}
    unreal = {"conv": CONV, "resp": RESP, "item": f"msg_{UNKNOWN}0"}
    for method, path, body in _touching():
        foreign = await t2.request(method, _put(path, real), json=_put_all(body, real))
        unknown = await t2.request(method, _put(path, unreal), json=_put_all(body, unreal))
        assert foreign.status_code == unknown.status_code == 404, (method, path, body)
        assert _without_ids(foreign.text, real) == _without_ids(unknown.text, unreal)
        assert foreign.headers.keys() == unknown.headers.keys()
    assert await history(t1, conversation) == before
    assert (await t1.get(f"/v1/responses/{made['id']}")).json() == made


def _touching() -> Iterator[tuple[str, str, dict[str, object] | None]]:
    items = [{"role": "user", "content": "mine now"}]
    yield "GET", "/v1/conversations/{conv}", None
    yield "POST", "/v1/conversations/{conv}", {"metadata": {"a": "b"}}
    yield "GET", "/v1/conversations/{conv}/items", None
    yield "GET", "/v1/conversations/{conv}/items?after={item}", None
    yield "POST", "/v1/conversations/{conv}/items", {"items": items}
    yield "GET", "/v1/conversations/{conv}/items/{item}", None
    yield "DELETE", "/v1/conversations/{conv}/items/{item}", None
    yield "DELETE", "/v1/conversations/{conv}", None
    yield "GET", "/v1/responses/{resp}", None
    yield "GET", "/v1/responses/{resp}?stream=true&starting_after=2", None
    yield "GET", "/v1/responses/{resp}/input_items", None
    yield "POST", "/v1/responses/{resp}/cancel", {}
    yield "DELETE", "/v1/responses/{resp}", None
    yield "POST", "/v1/responses", {"model": "support", "input": "hi", "conversation": "{conv}"}
    yield "POST", "/v1/responses", {"model": "support", "input": "hi", "previous_response_id": "{resp}"}
    yield "POST", "/v1/responses", {"model": "support", "input": "hi", "conversation": "{conv}", "stream": True}


def _put(text: str, ids: dict[str, str]) -> str:
    for name, identifier in ids.items():
        text = text.replace(f"{{{name}}}", identifier)
    return text


def _put_all(body: dict[str, object] | None, ids: dict[str, str]) -> dict[str, object] | None:
    if body is None:
        return None
    return {name: _put(value, ids) if isinstance(value, str) else value for name, value in body.items()}


def _without_ids(text: str, ids: dict[str, str]) -> str:
    for name, identifier in ids.items():
        text = text.replace(identifier, f"<{name}>")
    return text


async def test_an_idempotency_key_belongs_to_its_tenant(t1: httpx2.AsyncClient, t2: httpx2.AsyncClient) -> None:
    key = {"Idempotency-Key": "the same"}
    one, other = [await say(client, "hello", headers=key) for client in (t1, t2)]
    assert (one.status_code, other.status_code) == (200, 200)
    assert one.json()["id"] != other.json()["id"]


async def test_the_tenant_is_never_taken_from_the_request(t1: httpx2.AsyncClient, t2: httpx2.AsyncClient) -> None:
    conversation = await new_conversation(t1, metadata={"tenant": "t2"})
    headers = {"X-Tenant": "t1", "OpenAI-Organization": "t1", "OpenAI-Project": "t1"}
    assert (await t2.get(f"/v1/conversations/{conversation}", headers=headers)).status_code == 404


# --- keys as they are kept --------------------------------------------------------------------------------------------


def test_only_the_hmac_of_a_key_is_kept(guarded: Guarded) -> None:
    stored = guarded.file.read_text()
    for key, tenant in ((guarded.t1, "t1"), (guarded.t1_too, "t1"), (guarded.t2, "t2")):
        _, identifier, secret = key.split("_", 2)
        assert secret not in stored
        digest = hmac.new(SECRET.encode(), key.encode(), hashlib.sha256).hexdigest()
        assert f"{identifier} {tenant} {digest}" in stored.splitlines()
    assert len({guarded.t1, guarded.t1_too, guarded.t2}) == 3


@pytest.mark.parametrize(("tenant", "secret"), [("a/b", SECRET), ("", SECRET), ("t1", "")])
def test_a_key_that_cannot_work_is_not_made(tmp_path: Path, tenant: str, secret: str) -> None:
    path = tmp_path / "keys"
    made = _cli("keys", "create", "--tenant", tenant, "--file", str(path), secret=secret)
    assert made.returncode == 1
    assert made.stderr.startswith("Error: ")
    assert not path.exists()


# --- the start --------------------------------------------------------------------------------------------------------


def _refused(*args: str, **env: str) -> str:
    """What `agentrt serve` says when it does not start."""
    # A pod that does start runs into the timeout.
    ended = agentrt("serve", "agentrt.demo:agents", "--port", str(free_port()), *args, env=env, timeout_s=8)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: "), ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.test"])
def test_without_keys_only_loopback_is_served(host: str) -> None:
    said = _refused("--host", host)
    assert "AGENTRT_API_KEYS_FILE" in said
    assert "AGENTRT_AUTH=off" in said
    assert host in said


def test_a_file_without_keys_is_not_an_open_door(tmp_path: Path, redis_server: RedisServer) -> None:
    path = tmp_path / "keys"
    path.write_text("# none yet\n\n")
    env = {"AGENTRT_API_KEYS_FILE": str(path), "AGENTRT_API_KEYS_SECRET": SECRET}
    pod = Pod(redis_server.url, name="doorless", env=env)
    pod._command += ["--host", "0.0.0.0"]
    try:
        with pytest.raises(RuntimeError, match=str(path)):
            pod.start()  # raises with the pod's log when it ends instead
    finally:
        pod.stop()


@pytest.mark.parametrize(
    ("content", "secret", "says"),
    [
        ("x y", SECRET, "line 1"),
        ("# ours\nx t1 zz", SECRET, "line 2"),
        ("x t/1 " + "0" * 64, SECRET, "line 1"),
        ("x t1 00", SECRET, "line 1"),
        ("x t1 " + "0" * 64, "", "AGENTRT_API_KEYS_SECRET"),
    ],
)
def test_a_file_of_keys_that_cannot_be_used(tmp_path: Path, content: str, secret: str, says: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(SettingsError, match=says):
        Keys(read_keys(str(path)), secret)


def test_a_file_of_keys_that_is_not_there(tmp_path: Path) -> None:
    assert "no such file" in _refused(AGENTRT_API_KEYS_FILE=str(tmp_path / "none"))


async def test_without_keys_and_with_auth_off_any_credential_does(redis_server: RedisServer, tmp_path: Path) -> None:
    env = {"AGENTRT_AUTH": "off", "AGENTRT_DEMO_DB": str(tmp_path / "demo.db")}
    port = free_port()
    pod = Pod(redis_server.url, name="open", env=env, port=port)
    pod._command += ["--host", "0.0.0.0"]
    with pod:
        async with httpx2.AsyncClient(base_url=pod.url, verify=NO_TLS) as client:
            conversation = await new_conversation(client)
            seen = await client.get(f"/v1/conversations/{conversation}", headers={"Authorization": "Bearer any"})
            assert seen.status_code == 200
