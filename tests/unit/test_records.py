"""What is persisted: items and their ids, requests, and the reading of older and newer headers."""

from __future__ import annotations

import orjson
import pytest

from agentrt.errors import SchemaNewer
from agentrt.records import SCHEMA_VERSION, Item, Request, Usage, item_id, parse_item_id, upcast

ORIGIN = "0123456789ABCDEFGHIJkl"
PUBLIC = {"id": "msg_1", "type": "message", "content": "line one\nline two \u2028 ü"}
PROTOTYPE = {
    "v": "0",
    "tenant": "acme",
    "user": "ann",
    "created": "1700000000000",
    "rev": "4",
    "seq": "8",
    "last": "R" * 22,
    "meta:topic": "billing",
    "meta:v": "an entry named like a field of the header",
}
"""A header as version 0 wrote it."""


def test_item_without_private_data() -> None:
    """The stored form is the API's JSON and nothing else, so it can be spliced into a response."""
    stored = Item.of(PUBLIC).encode()
    assert stored == orjson.dumps(PUBLIC)
    item = Item.decode(stored)
    assert (item.data, item.private, item.id, item.type) == (PUBLIC, {}, "msg_1", "message")


def test_item_with_private_data() -> None:
    """What only the runtime may see is split off exactly, even where the text has line breaks."""
    private = {"step": 2, "call_id": "toolu_1", "data": "a\nb"}
    stored = Item.of(PUBLIC, private).encode()
    item = Item.decode(stored)
    assert (item.raw, item.data, item.private) == (orjson.dumps(PUBLIC), PUBLIC, private)
    assert b"toolu_1" not in item.raw
    assert item.encode() == stored


def test_an_item_without_a_type_is_a_message() -> None:
    assert Item.of({"id": "x", "role": "user"}).type == "message"


def test_upcast_of_the_prototype() -> None:
    """Version 0 kept metadata in fields `meta:<key>` and called the head `last`."""
    fields = upcast(PROTOTYPE, 1)
    assert orjson.loads(fields.pop("metadata")) == {
        "topic": "billing",
        "v": "an entry named like a field of the header",
    }
    assert fields == {
        "v": "1",
        "tenant": "acme",
        "user": "ann",
        "created": "1700000000000",
        "rev": "4",
        "seq": "8",
        "head": "R" * 22,
    }


def test_upcast_of_a_prototype_without_turns() -> None:
    """No `last` means no head, no `meta:` means no metadata."""
    fields = upcast({"v": "0", "tenant": "acme"}, 1)
    assert fields == {"tenant": "acme", "v": "1", "metadata": "{}", "head": ""}


def test_upcast_goes_step_by_step() -> None:
    """From the prototype to the present version by way of the ones between."""
    header = {"v": "0", "tenant": "acme", "last": "R" * 22}
    assert upcast(header, SCHEMA_VERSION) == upcast(upcast(header, 1), SCHEMA_VERSION)
    assert upcast(header, SCHEMA_VERSION)["v"] == str(SCHEMA_VERSION)


def test_upcast_leaves_the_present_version_alone() -> None:
    """And never changes what it was given."""
    header = {"v": str(SCHEMA_VERSION), "tenant": "acme", "head": "x", "metadata": '{"a":"b"}'}
    assert upcast(header, SCHEMA_VERSION) == header
    assert upcast(header, SCHEMA_VERSION - 1) == header  # there is no way back
    before = dict(PROTOTYPE)
    upcast(PROTOTYPE, SCHEMA_VERSION)
    assert before == PROTOTYPE


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 999])
def test_a_newer_header_is_refused(version: int) -> None:
    """Never misread: the error says which version it met."""
    with pytest.raises(SchemaNewer) as caught:
        upcast({"v": str(version), "tenant": "acme"}, SCHEMA_VERSION)
    assert caught.value.version == version


@pytest.mark.parametrize("number", [0, 1, 10, 999_999_999])
@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("message", "msg"),
        ("function_call", "fc"),
        ("function_call_output", "fco"),
        ("reasoning", "rs"),
        ("mcp_call", "mcp"),
        ("mcp_approval_request", "mcpr"),
        ("mcp_approval_response", "mcpa"),
        ("something_new", "item"),
    ],
)
def test_item_ids_round_trip(kind: str, prefix: str, number: int) -> None:
    """An id names its origin and its number, so an item is found without a lookup table."""
    text = item_id(kind, ORIGIN, number)
    assert text == f"{prefix}_{ORIGIN}{number}"
    assert parse_item_id(text) == (ORIGIN, number)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "msg_",
        f"msg_{ORIGIN}",
        f"msg_{ORIGIN}00",
        f"msg_{ORIGIN}07",
        f"msg_{ORIGIN}-1",
        f"msg_{ORIGIN}1234567890",
        f"msg_{ORIGIN}1\n",
        f"msg_{ORIGIN}1 ",
        f"MSG_{ORIGIN}1",
        f"m_{ORIGIN}1",
        f"_{ORIGIN}1",
        f"msg{ORIGIN}1",
        f"msg_{ORIGIN[:-1]}-1",
        f"msg_{ORIGIN}x",
        f"msg_{ORIGIN}١",
    ],
)
def test_odd_item_ids_are_refused(text: str) -> None:
    """None, never a number that `item_id` would not have written."""
    assert parse_item_id(text) is None


def test_request_round_trip() -> None:
    request = Request("support", 1_700_000_000, {"temperature": 0.5, "tools": []}, "conv_x", "resp_y", "ann")
    assert Request.decode(request.encode()) == request
    assert Request.decode(b'{"agent":"a","created":1,"options":{}}') == Request("a", 1, {})


def test_usage_adds_up() -> None:
    assert Usage(1, 2, 3, 4) + Usage(10, 20, 30, 40) == Usage(11, 22, 33, 44)
