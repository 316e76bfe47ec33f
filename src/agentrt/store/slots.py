"""What keys hold in their braces, and whose they are."""

from __future__ import annotations

__all__ = ["Slot", "slot_of"]


class Slot(bytes):
    """What the braces of a key hold, and whose it is: a tenant's commands may have to go under its own Redis user."""

    tenant: str

    def __new__(cls, raw: bytes, tenant: str) -> Slot:
        made = super().__new__(cls, raw)
        made.tenant = tenant
        return made


def slot_of(key: bytes) -> bytes:
    """The slot of a key as it was found."""
    tag = key.partition(b"{")[2].partition(b"}")[0]
    tenant, slash, _ = tag.partition(b"/")
    return Slot(tag, tenant.decode(errors="replace")) if slash else tag
