"""Who asks: API keys to tenants. The tenant comes from the credential, never from the request.

A key reads `ak_<id>_<secret>`. Kept of it, in Redis or in a file, is the HMAC-SHA256 of the whole key under
AGENTRT_API_KEYS_SECRET. The file has one line a key: `id tenant hmac`; a fourth word `operator` adds that scope.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from starlette.requests import Request

from agentrt.errors import SettingsError
from agentrt.http.errors import ApiError
from agentrt.store.access import SCOPES, KeyRecord
from agentrt.store.keys import is_name

__all__ = ["Keys", "Principal", "line_of", "mint", "read_keys"]

DEV_TENANT = "dev"
_ID_BYTES = 6
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Principal:
    """The tenant, and which credential of it: both count when two messages are compared."""

    tenant: str
    credential: str
    scopes: Sequence[str]


def _digest(secret: str, key: str) -> bytes:
    return hmac.new(secret.encode(), key.encode(), hashlib.sha256).digest()


@lru_cache(maxsize=64)
def _on_loopback(host: str) -> bool:
    """Whether an address of ours is one of this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def mint(tenant: str, secret: str, scopes: Sequence[str]) -> tuple[str, str, KeyRecord]:
    """A new key for a tenant: (the key, shown once; its id; what is kept of it)."""
    if not is_name(tenant):
        raise SettingsError(f"{tenant!r} is not a tenant name")
    if not secret:
        raise SettingsError("AGENTRT_API_KEYS_SECRET is not set")
    identifier = secrets.token_hex(_ID_BYTES)
    key = f"ak_{identifier}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    return key, identifier, KeyRecord(tenant, _digest(secret, key).hex(), tuple(scopes), int(time.time()))


def line_of(identifier: str, record: KeyRecord) -> str:
    """A key as a line of a file."""
    role = " operator" if "operate" in record.scopes else ""
    return f"{identifier} {record.tenant} {record.digest}{role}"


def read_keys(path: str) -> dict[str, KeyRecord]:
    """The keys of a file, by id. Raises `SettingsError` that names the line."""
    keys: dict[str, KeyRecord] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"AGENTRT_API_KEYS_FILE: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise SettingsError(f"AGENTRT_API_KEYS_FILE: {path} is not UTF-8") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            identifier, tenant, digest, *role = line.split()
            size = len(bytes.fromhex(digest))
        except ValueError:
            raise SettingsError(f"{path}, line {number}: not `id tenant hmac`") from None
        if role not in ([], ["operator"]):
            raise SettingsError(f"{path}, line {number}: the fourth word can only be `operator`")
        if not is_name(tenant) or size != hashlib.sha256().digest_size:
            raise SettingsError(f"{path}, line {number}: not a tenant name, or not a SHA-256")
        keys[identifier] = KeyRecord(tenant, digest, ("run", "read", *(["operate"] if role else [])))
    if not keys:
        raise SettingsError(f"{path}: no key in it")
    return keys


class Keys:
    """Checks credentials. Without a file of keys and without a secret everybody is the tenant `dev`, on loopback, and
    elsewhere only where that is `allowed`.
    """

    def __init__(self, keys: Mapping[str, KeyRecord] | None, secret: str, *, allowed: bool = False) -> None:
        self._allowed = allowed
        if keys is not None and not secret:
            raise SettingsError("AGENTRT_API_KEYS_SECRET is not set")
        self.open = keys is None and not secret
        """Whether any credential is accepted."""
        self._keys = keys or {}
        self._secret = secret
        self.granted: Callable[[str], KeyRecord | None] = lambda _: None
        """Finds a key that is kept in Redis, by its id."""

    def check(self, request: Request, scope: str = "") -> Principal:
        """The principal of a request, which may do what the request is for: by its method, unless a scope is named.

        Raises a 401, a 403.
        """
        principal = self._principal(request)
        scope = scope or ("read" if request.method in {"GET", "HEAD"} else "run")
        if scope not in principal.scopes:
            raise ApiError(403, "insufficient_scope", f"This API key does not have the scope '{scope}'.", final=True)
        return principal

    def _principal(self, request: Request) -> Principal:
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        credential = credential.strip() if scheme.lower() == "bearer" else ""
        if self.open:
            if not self._allowed and not _on_loopback((request.scope.get("server") or ("",))[0]):
                raise ApiError(401, "no_api_keys", "This server has no API keys and is not on loopback.", final=True)
            return Principal(DEV_TENANT, hashlib.sha256(credential.encode()).hexdigest()[:16], SCOPES)
        parts = credential.split("_", 2)
        record = self._keys.get(parts[1]) or self.granted(parts[1]) if len(parts) == 3 else None
        # The digest is computed and compared for unknown ids as well: the time tells nothing.
        expected = bytes.fromhex(record.digest) if record is not None else bytes(hashlib.sha256().digest_size)
        if not hmac.compare_digest(_digest(self._secret, credential), expected) or record is None:
            raise ApiError(401, "invalid_api_key", "Incorrect API key provided.")
        return Principal(record.tenant, parts[1], record.scopes)
