"""Who asks: API keys to tenants. The tenant comes from the credential, never from the request.

A key reads `ak_<id>_<secret>`. The file of keys has one line a key: `id tenant hmac`, the HMAC-SHA256 of the whole key
under AGENTRT_API_KEYS_SECRET, in hex. Only that is stored. A fourth word `operator` opens the native routes to it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request

from agentrt.errors import SettingsError
from agentrt.http.errors import ApiError
from agentrt.store.keys import is_name

__all__ = ["Keys", "Principal", "StoredKey", "mint", "read_keys"]

DEV_TENANT = "dev"
_ID_BYTES = 6
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Principal:
    """The tenant, and which credential of it: both count when two messages are compared."""

    tenant: str
    credential: str
    operator: bool = False
    """Whether it may use the native routes, for every tenant."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as it is kept."""

    tenant: str
    digest: bytes
    operator: bool = False


def _digest(secret: str, key: str) -> bytes:
    return hmac.new(secret.encode(), key.encode(), hashlib.sha256).digest()


def _on_loopback(request: Request) -> bool:
    """Whether the request came to an address of this machine only."""
    server = request.scope.get("server")
    try:
        return server is not None and ipaddress.ip_address(server[0]).is_loopback
    except ValueError:
        return False


def mint(tenant: str, secret: str, *, operator: bool = False) -> tuple[str, str]:
    """A new key for a tenant: (the key, shown once; the line for the file)."""
    if not is_name(tenant):
        raise SettingsError(f"{tenant!r} is not a tenant name")
    if not secret:
        raise SettingsError("AGENTRT_API_KEYS_SECRET is not set")
    identifier = secrets.token_hex(_ID_BYTES)
    key = f"ak_{identifier}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    role = " operator" if operator else ""
    return key, f"{identifier} {tenant} {_digest(secret, key).hex()}{role}"


def read_keys(path: str) -> dict[str, StoredKey]:
    """The keys of a file, by id. Raises `SettingsError` that names the line."""
    keys: dict[str, StoredKey] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            identifier, tenant, digest, *role = line.split()
            stored = StoredKey(tenant, bytes.fromhex(digest), role == ["operator"])
        except ValueError:
            raise SettingsError(f"{path}, line {number}: not `id tenant hmac`") from None
        if role not in ([], ["operator"]):
            raise SettingsError(f"{path}, line {number}: the fourth word can only be `operator`")
        if not is_name(tenant) or len(stored.digest) != hashlib.sha256().digest_size:
            raise SettingsError(f"{path}, line {number}: not a tenant name, or not a SHA-256")
        keys[identifier] = stored
    if not keys:
        raise SettingsError(f"{path}: no key in it")
    return keys


class Keys:
    """Checks credentials. Without a file of keys (None) everybody is the tenant `dev`, on loopback, and elsewhere only
    where that is `allowed`.
    """

    def __init__(self, keys: Mapping[str, StoredKey] | None, secret: str, *, allowed: bool = False) -> None:
        self._allowed = allowed
        if keys is not None and not secret:
            raise SettingsError("AGENTRT_API_KEYS_SECRET is not set")
        self.open = keys is None
        """Whether any credential is accepted."""
        self._keys = keys or {}
        self._secret = secret

    def check(self, request: Request) -> Principal:
        """The principal of a request. Raises a 401."""
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        credential = credential.strip() if scheme.lower() == "bearer" else ""
        if self.open:
            if not self._allowed and not _on_loopback(request):
                raise ApiError(401, "no_api_keys", "This server has no API keys and is not on loopback.", final=True)
            return Principal(DEV_TENANT, hashlib.sha256(credential.encode()).hexdigest()[:16], operator=True)
        parts = credential.split("_", 2)
        stored = self._keys.get(parts[1]) if len(parts) == 3 else None
        # The digest is computed and compared for unknown ids as well: the time tells nothing.
        expected = stored.digest if stored is not None else bytes(hashlib.sha256().digest_size)
        if not hmac.compare_digest(_digest(self._secret, credential), expected) or stored is None:
            raise ApiError(401, "invalid_api_key", "Incorrect API key provided.")
        return Principal(stored.tenant, parts[1], stored.operator)
