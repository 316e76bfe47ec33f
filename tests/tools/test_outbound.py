"""The guard of outgoing requests, against real servers on loopback. 127.0.0.2 plays the public internet: it is allowed
by name of its network, everything else of loopback is not."""

from __future__ import annotations

import datetime
import gzip
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from agentrt.errors import ToolError
from agentrt.tools.outbound import GuardedTransport, TooLong, guarded_client, is_public
from tests.harness.redis_server import free_port

PUBLIC = "127.0.0.2"


@dataclass
class Site:
    """A server on two addresses of loopback, and what it was asked: (address that was reached, path)."""

    port: int
    seen: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, request: Request) -> Response:
        self.seen.append((request.scope["server"][0], request.url.path))
        self.headers.append(dict(request.headers))
        match request.url.path.strip("/"):
            case "to-private":
                return RedirectResponse(f"http://127.0.0.1:{self.port}/secret")
            case "to-public":
                return RedirectResponse(f"http://{PUBLIC}:{self.port}/here")
            case "to-file":
                return RedirectResponse("file:///etc/passwd")
            case "endless":
                return StreamingResponse(self._endless())
            case "packed":
                packed = gzip.compress(b"0" * 100_000)
                return Response(packed, headers={"content-encoding": "gzip"})
        return PlainTextResponse("here")

    async def _endless(self) -> AsyncIterator[bytes]:
        for _ in range(10_000):
            yield b"x" * 1000


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Site]:
    site = Site(free_port())
    app = Starlette(routes=[Route("/{path:path}", site.answer)])
    config = uvicorn.Config(app, log_level="critical", lifespan="off", **options)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[socket.create_server((host, site.port)) for host in ("127.0.0.1", PUBLIC)])
    try:
        yield site
    finally:
        for listener in server.servers:
            listener.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving() as site:
        yield site


def guard(**options: Any) -> httpx2.AsyncClient:
    return guarded_client(GuardedTransport(allow=[f"{PUBLIC}/32"], **options))


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.255", "168.63.129.16"),
        *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1"),
        *("198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
        *(
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
        ),
        *(
            "64:ff9b::a00:1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::808:808",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
        ),
        *(
            "2002:808:808::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fe80::1%eth0",
            "fec0::1",
            "ff02::1",
        ),
    ],
)
def test_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "172.32.0.1", "100.128.0.1", "192.0.1.1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2606:4700::1"],
)
def test_public_addresses_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "017700000001", "127.1", "[::1]", "[::ffff:127.0.0.1]"],
)
async def test_no_spelling_of_loopback_gets_through(site: Site, host: str) -> None:
    """Refused as a tool error that the model can read, and nothing arrives."""
    async with guard() as client:
        with pytest.raises(ToolError, match="not a public address"):
            await client.get(f"http://{host}:{site.port}/secret")
    assert site.seen == []


async def test_a_name_is_looked_up_once_and_the_checked_address_is_used(site: Site) -> None:
    """A name that is public when it is checked and private a moment later (rebinding) gains nothing."""
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return [PUBLIC] if len(asked) == 1 else ["127.0.0.1"]

    async with guard(resolve=rebinding) as client:
        assert (await client.get(f"http://a.example:{site.port}/")).text == "here"
        assert site.seen == [(PUBLIC, "/")] and asked == ["a.example"]
        assert site.headers[0]["host"] == f"a.example:{site.port}"
        with pytest.raises(ToolError):
            await client.get(f"http://b.example:{site.port}/")
    assert len(site.seen) == 1


@pytest.mark.parametrize("addresses", [[PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], []])
async def test_one_private_address_condemns_the_name(site: Site, addresses: list[str]) -> None:
    async def both(host: str, port: int) -> Sequence[str]:
        return addresses

    async with guard(resolve=both) as client:
        with pytest.raises(ToolError):
            await client.get(f"http://a.example:{site.port}/")
    assert site.seen == []


async def test_redirects_are_checked(site: Site) -> None:
    """A public page may lead to a public one, not to a private one, nor out of HTTP."""
    async with guard() as client:
        assert (await client.get(f"http://{PUBLIC}:{site.port}/to-public")).text == "here"
        with pytest.raises(ToolError):
            await client.get(f"http://{PUBLIC}:{site.port}/to-private")
        with pytest.raises((ToolError, httpx2.UnsupportedProtocol)):
            await client.get(f"http://{PUBLIC}:{site.port}/to-file")
    assert [path for _, path in site.seen] == ["/to-public", "/here", "/to-private", "/to-file"]


async def test_control_without_the_guard_the_redirect_arrives(site: Site) -> None:
    async with httpx2.AsyncClient(follow_redirects=True, trust_env=False) as client:
        await client.get(f"http://{PUBLIC}:{site.port}/to-private")
    assert [path for _, path in site.seen] == ["/to-private", "/secret"]


async def test_responses_have_a_bound(site: Site) -> None:
    async with guard(bytes_max=50_000) as client:
        with pytest.raises(TooLong):
            await client.get(f"http://{PUBLIC}:{site.port}/endless")
        with pytest.raises(TooLong, match="compressed"):
            await client.get(f"http://{PUBLIC}:{site.port}/packed")
        assert (await client.get(f"http://{PUBLIC}:{site.port}/")).text == "here"
    assert {headers["accept-encoding"] for headers in site.headers} == {"identity"}


async def test_failures_have_the_names_that_users_know() -> None:
    async with guard() as client:
        with pytest.raises(httpx2.ConnectError):
            await client.get(f"http://{PUBLIC}:1/")
        with pytest.raises(httpx2.ConnectError, match="has no address"):
            await client.get("http://no-such-name.invalid/")


async def test_tls_is_verified_against_the_name(tmp_path: Path) -> None:
    """Not against the address that the connection goes to."""
    certificate, key = self_signed("good.example", tmp_path)

    async def everything(host: str, port: int) -> Sequence[str]:
        return [PUBLIC]

    trusting = ssl.create_default_context(cafile=str(certificate))
    async with (
        serving(ssl_certfile=str(certificate), ssl_keyfile=str(key)) as site,
        guard(resolve=everything, ssl_context=trusting) as client,
    ):
        assert (await client.get(f"https://good.example:{site.port}/")).text == "here"
        with pytest.raises(httpx2.ConnectError, match=r"(?i)hostname mismatch"):
            await client.get(f"https://bad.example:{site.port}/")


def self_signed(name: str, directory: Path) -> tuple[Path, Path]:
    """A certificate for a name, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    files = directory / "certificate.pem", directory / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
