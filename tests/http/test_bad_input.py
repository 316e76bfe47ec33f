"""Requests that cannot be served: each is told what is wrong, in the API's shape, and nothing of it is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.harness.pod import Pod
from tests.http.wire import UNKNOWN, history, new_conversation, say

Client = httpx2.AsyncClient
CONV, RESP, ITEM = f"conv_{UNKNOWN}", f"resp_{UNKNOWN}{UNKNOWN}", f"msg_{UNKNOWN}0"
LIMIT = 1024 * 1024
"""The pods' AGENTRT_BODY_BYTES_MAX."""


def check_error(response: httpx2.Response, status: int, param: str | None, code: str | None = None) -> None:
    """The API's error shape with that status and parameter."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"}
    error = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    if code is not None:
        assert error["code"] == code


@pytest.fixture
async def conversation(a: Client) -> str:
    """A conversation with one turn."""
    made = await new_conversation(a)
    assert (await say(a, "hello", conversation=made)).status_code == 200
    return made


# --- the body ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"model": NaN}', "invalid_json"),
        (b'{"input": "\\ud800"}', "invalid_json"),
        (b"[" * 5000, "invalid_json"),
        (b"[]", "invalid_type"),
        (b'"hello"', "invalid_type"),
        (b"null", "invalid_type"),
        (b"", "missing_required_parameter"),
    ],
)
async def test_a_body_that_is_no_json_object(a: Client, raw: bytes, code: str) -> None:
    answered = await a.post("/v1/responses", content=raw)
    check_error(answered, 400, "model" if raw == b"" else None, code)


@pytest.mark.parametrize("path", ["/v1/conversations", "/v1/conversations/{}", "/v1/conversations/{}/items"])
@pytest.mark.parametrize("raw", [b"{", b"[]"])
async def test_a_bad_body_on_the_other_routes(a: Client, conversation: str, path: str, raw: bytes) -> None:
    check_error(await a.post(path.format(conversation), content=raw), 400, None)
    assert len(await history(a, conversation)) == 2


NESTED = "x"
for _ in range(400):
    NESTED = [NESTED]  # type: ignore[assignment]


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("temperature text", {"temperature": "hot"}, "temperature"),
    ("temperature true", {"temperature": True}, "temperature"),
    ("temperature high", {"temperature": 2.1}, "temperature"),
    ("top_p low", {"top_p": -0.1}, "top_p"),
    ("max_output_tokens 0", {"max_output_tokens": 0}, "max_output_tokens"),
    ("max_output_tokens 1.5", {"max_output_tokens": 1.5}, "max_output_tokens"),
    ("max_output_tokens huge", {"max_output_tokens": 2**70}, "max_output_tokens"),
    ("max_tool_calls 0", {"max_tool_calls": 0}, "max_tool_calls"),
    ("top_logprobs 21", {"top_logprobs": 21}, "top_logprobs"),
    ("presence_penalty", {"presence_penalty": 3}, "presence_penalty"),
    ("frequency_penalty", {"frequency_penalty": -3}, "frequency_penalty"),
    ("parallel_tool_calls", {"parallel_tool_calls": "yes"}, "parallel_tool_calls"),
    ("tool_choice", {"tool_choice": 1}, "tool_choice"),
    ("tool_choice word", {"tool_choice": "always"}, "tool_choice"),
    ("tool_choice of nothing", {"tool_choice": {"type": "function"}}, "tool_choice"),
    ("tool_choice type", {"tool_choice": {"type": ["function"], "name": "f"}}, "tool_choice"),
    ("tool_choice name", {"tool_choice": {"type": "function", "name": ["f"]}}, "tool_choice"),
    ("allowed tools null", {"tool_choice": {"type": "allowed_tools", "tools": None}}, "tool_choice"),
    ("allowed tools numbers", {"tool_choice": {"type": "allowed_tools", "tools": [1]}}, "tool_choice"),
    ("allowed tools names", {"tool_choice": {"type": "allowed_tools", "tools": [{"name": ["f"]}]}}, "tool_choice"),
    ("allowed tools mode", {"tool_choice": {"type": "allowed_tools", "tools": [], "mode": []}}, "tool_choice"),
    ("effort word", {"reasoning": {"effort": "much"}}, "reasoning.effort"),
    ("effort list", {"reasoning": {"effort": ["low"]}}, "reasoning.effort"),
    ("format type", {"text": {"format": {"type": ["text"]}}}, "text.format"),
    ("truncation", {"truncation": "some"}, "truncation"),
    ("truncation list", {"truncation": []}, "truncation"),
    ("truncation object", {"truncation": {"a": 1}}, "truncation"),
    ("store", {"store": 1}, "store"),
    ("background", {"background": "no"}, "background"),
    ("stream", {"stream": "true"}, "stream"),
    ("text", {"text": "plain"}, "text"),
    ("reasoning", {"reasoning": "much"}, "reasoning"),
    ("service_tier", {"service_tier": 1}, "service_tier"),
    ("instructions", {"instructions": ["be nice"]}, "instructions"),
    ("prompt_cache_key", {"prompt_cache_key": 1}, "prompt_cache_key"),
    ("safety_identifier type", {"safety_identifier": 1}, "safety_identifier"),
    ("safety_identifier characters", {"safety_identifier": "a/b"}, "safety_identifier"),
    ("user characters", {"user": "a{b}"}, "user"),
    ("user line break", {"user": "a\n"}, "user"),
    ("user long", {"user": "u" * 65}, "user"),
    ("user empty", {"user": ""}, "user"),
    ("metadata list", {"metadata": ["a"]}, "metadata"),
    ("metadata many", {"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ("metadata value", {"metadata": {"a": 1}}, "metadata.a"),
    ("metadata long", {"metadata": {"a": "x" * 513}}, "metadata.a"),
    ("metadata key", {"metadata": {"k" * 65: "x"}}, "metadata." + "k" * 64),
    ("tools object", {"tools": {"type": "function"}}, "tools"),
    ("tools number", {"tools": [1]}, "tools[0]"),
    ("tool name", {"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
    ("tool parameters", {"tools": [{"type": "function", "name": "f", "parameters": "x"}]}, "tools[0].parameters"),
    ("on_busy", {"metadata": {"agentrt_on_busy": "panic"}}, "metadata.agentrt_on_busy"),
    ("input none", {"input": None}, "input"),
    ("input number", {"input": 1}, "input"),
    ("input empty", {"input": []}, "input"),
    ("input of texts", {"input": ["hello"]}, "input[0]"),
    ("item without type", {"input": [{"content": "x"}]}, "input[0].type"),
    ("item type", {"input": [{"type": "banana"}]}, "input[0].type"),
    ("item type list", {"input": [{"type": []}]}, "input[0].type"),
    ("role", {"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
    ("role list", {"input": [{"role": [], "content": "x"}]}, "input[0].role"),
    ("role object", {"input": [{"role": {}, "content": "x"}]}, "input[0].role"),
    ("content", {"input": [{"role": "user", "content": 1}]}, "input[0].content"),
    ("part", {"input": [{"role": "user", "content": ["x"]}]}, "input[0].content[0]"),
    ("part type", {"input": [{"role": "user", "content": [{"type": "smell"}]}]}, "input[0].content[0].type"),
    ("part text", {"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    ("second item", {"input": [{"role": "user", "content": "x"}, 5]}, "input[1]"),
    ("call without id", {"input": [{"type": "function_call", "name": "f", "arguments": ""}]}, "input[0].call_id"),
    ("output", {"input": [{"type": "function_call_output", "call_id": "c", "output": 1}]}, "input[0].output"),
    ("too many items", {"input": [{"role": "user", "content": "x"}] * 513}, "input"),
    ("too large an item", {"input": [{"role": "user", "content": "x" * 300_000}]}, "input[0]"),
]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [pytest.param(*case, id=name) for name, *case in BAD],
)
async def test_a_wrong_parameter_is_named_and_nothing_is_stored(
    a: Client, b: Client, conversation: str, wrong: dict[str, Any], param: str
) -> None:
    before = await history(b, conversation)
    answered = await say(a, "hello", **{"conversation": conversation, "input": "hello", **wrong})
    check_error(answered, 400, param)
    assert await history(b, conversation) == before


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"metadata": []}, "metadata"),
        ({"metadata": ""}, "metadata"),
        ({"tools": {}}, "tools"),
        ({"tools": ""}, "tools"),
    ],
)
async def test_an_empty_value_of_the_wrong_type_is_wrong_as_well(a: Client, wrong: dict[str, Any], param: str) -> None:
    check_error(await say(a, "hello", **wrong), 400, param)


@pytest.mark.parametrize("where", ["text", "reasoning", "unknown_key", "input"])
async def test_deeply_nested_values_are_no_server_error(a: Client, conversation: str, where: str) -> None:
    value = [{"type": "reasoning", "summary": [], "x": NESTED}] if where == "input" else {"x": NESTED}
    answered = await say(a, "hello", **{"conversation": conversation, where: value})
    assert answered.status_code in {200, 400}, answered.text
    assert len(await history(a, conversation)) == (2 if answered.status_code == 400 else 4)


async def test_unknown_keys_and_foreign_tools_are_ignored(a: Client) -> None:
    answered = await say(a, "hello", banana=1, tools=[{"type": "web_search"}])
    assert answered.status_code == 200
    assert answered.json()["tools"] == []


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        (None, 400, "missing_required_parameter"),
        (7, 400, "missing_required_parameter"),
        ("", 404, "model_not_found"),
        ("nobody", 404, "model_not_found"),
        ("x" * 10_000, 404, "model_not_found"),
    ],
)
async def test_an_unknown_model(a: Client, conversation: str, model: Any, status: int, code: str) -> None:
    answered = await say(a, "hello", model=model, conversation=conversation)
    check_error(answered, status, "model", code)
    assert len(answered.content) < 500
    assert len(await history(a, conversation)) == 2


async def test_an_unknown_model_by_its_route(a: Client) -> None:
    check_error(await a.get("/v1/models/nobody"), 404, "model", "model_not_found")


# --- ids --------------------------------------------------------------------------------------------------------------

ODD = ["x", "", "conv_", "null", "{t/s}", "*", "a b", "é", "\U0001f600", "%00", "..", "x" * 4000]
CONVS = [CONV, f"conv_{UNKNOWN}0", f"conv_{UNKNOWN[:-1]}", f"CONV_{UNKNOWN}", RESP, f"conv_{UNKNOWN[:-1]}\n", *ODD]
RESPS = [RESP, RESP + "0", RESP[:-1], CONV, f"resp_{UNKNOWN}", f"resp_{'*' * 44}", *ODD]
ITEMS = [ITEM, f"msg_{UNKNOWN}", f"msg_{UNKNOWN}01", f"msg_{UNKNOWN}999999999", f"msg_{UNKNOWN}-1", *ODD]


def _quote(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _routes(identifier: str, kind: str, conversation: str) -> Iterator[tuple[str, str]]:
    quoted = _quote(identifier)
    match kind:
        case "conversation":
            yield from (("GET", f"/v1/conversations/{quoted}"), ("DELETE", f"/v1/conversations/{quoted}"))
            yield "POST", f"/v1/conversations/{quoted}"
            yield from (("GET", f"/v1/conversations/{quoted}/items"), ("POST", f"/v1/conversations/{quoted}/items"))
            yield "GET", f"/v1/conversations/{quoted}/items/{ITEM}"
            yield "DELETE", f"/v1/conversations/{quoted}/items/{ITEM}"
        case "response":
            yield from (("GET", f"/v1/responses/{quoted}"), ("DELETE", f"/v1/responses/{quoted}"))
            yield "POST", f"/v1/responses/{quoted}/cancel"
            yield "GET", f"/v1/responses/{quoted}/input_items"
            yield "GET", f"/v1/responses/{quoted}?stream=true&starting_after=3"
        case "item":
            yield "GET", f"/v1/conversations/{conversation}/items/{quoted}"
            yield "DELETE", f"/v1/conversations/{conversation}/items/{quoted}"


CASES = [("conversation", i) for i in CONVS] + [("response", i) for i in RESPS] + [("item", i) for i in ITEMS]


def _is_path(identifier: str) -> bool:
    """Whether an id can stand in a path at all: an empty one, or one with a slash, makes another route."""
    return identifier not in {"", "..", "{t/s}"}


@pytest.mark.parametrize(("kind", "identifier"), [case for case in CASES if _is_path(case[1])])
async def test_an_id_that_is_not_there_is_a_404_on_every_route(
    a: Client, conversation: str, kind: str, identifier: str
) -> None:
    body = {"items": [{"role": "user", "content": "x"}], "metadata": {}}
    for method, path in _routes(identifier, kind, conversation):
        answered = await a.request(method, path, json=body if method == "POST" else None)
        check_error(answered, 404, "id", "not_found")
        assert len(answered.content) < 1000
    assert len(await history(a, conversation)) == 2


@pytest.mark.parametrize("identifier", [i for i in CONVS if i])
@pytest.mark.parametrize("as_object", [False, True], ids=["text", "object"])
async def test_an_unknown_conversation_to_run_in(a: Client, identifier: str, as_object: bool) -> None:
    answered = await say(a, "hello", conversation={"id": identifier} if as_object else identifier)
    check_error(answered, 404, "conversation", "not_found")


@pytest.mark.parametrize("identifier", [i for i in RESPS if i != RESP and i])
async def test_a_malformed_response_to_go_on_from(a: Client, identifier: str) -> None:
    answered = await say(a, "hello", previous_response_id=identifier)
    check_error(answered, 404, "previous_response_id", "previous_response_not_found")


async def test_an_unknown_response_to_go_on_from(a: Client) -> None:
    answered = await say(a, "hello", previous_response_id=RESP)
    check_error(answered, 404, "previous_response_id", "previous_response_not_found")


async def test_an_unknown_response_of_a_known_conversation(a: Client, conversation: str) -> None:
    unknown = f"resp_{conversation.removeprefix('conv_')}{UNKNOWN}"
    answered = await say(a, "hello", previous_response_id=unknown)
    check_error(answered, 404, "previous_response_id", "previous_response_not_found")
    assert len(await history(a, conversation)) == 2


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"conversation": 5}, "conversation"),
        ({"conversation": ["x"]}, "conversation"),
        ({"conversation": {"id": 5}}, "conversation"),
        pytest.param({"conversation": {}}, "conversation"),
        pytest.param({"conversation": {"id": None}}, "conversation"),
        ({"previous_response_id": 5}, "previous_response_id"),
        pytest.param({"previous_response_id": 0}, "previous_response_id"),
        pytest.param({"previous_response_id": []}, "previous_response_id"),
        ({"previous_response_id": {"id": RESP}}, "previous_response_id"),
    ],
)
async def test_an_id_of_the_wrong_type(a: Client, wrong: dict[str, Any], param: str) -> None:
    """Never silently a new conversation: the client would lose its history without a word."""
    answered = await say(a, "hello", **wrong)
    assert answered.status_code in {400, 404}, answered.text
    check_error(answered, answered.status_code, param)


@pytest.mark.parametrize("name", ["conversation", "previous_response_id"])
async def test_an_empty_id_is_not_a_new_conversation(a: Client, name: str) -> None:
    answered = await say(a, "hello", **{name: ""})
    assert answered.status_code in {400, 404}, answered.text


async def test_a_conversation_and_a_previous_response_exclude_each_other(a: Client, conversation: str) -> None:
    answered = await say(a, "hello", conversation=conversation, previous_response_id=RESP)
    check_error(answered, 400, "previous_response_id")
    assert len(await history(a, conversation)) == 2


async def test_an_item_of_another_conversation_is_not_there(a: Client, conversation: str) -> None:
    foreign = (await history(a, await new_conversation(a, items=[{"role": "user", "content": "x"}])))[0]["id"]
    for method in ("GET", "DELETE"):
        answered = await a.request(method, f"/v1/conversations/{conversation}/items/{foreign}")
        check_error(answered, 404, "id", "not_found")
    listed = await a.get(f"/v1/conversations/{conversation}/items", params={"after": foreign})
    check_error(listed, 400, "after")


# --- queries ----------------------------------------------------------------------------------------------------------

QUERIES = [
    ("limit", ["0", "101", "-1", "1.5", "x", "", " 1", "²", "9" * 5000]),
    ("order", ["up", "ASC", ""]),
    ("after", ["x", ITEM, f"msg_{UNKNOWN}²", f"msg_{UNKNOWN}99"]),
]


ODD_NUMBERS = ["²", "9" * 5000]


@pytest.mark.parametrize("listing", ["conversation", "response"])
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in QUERIES for value in values])
async def test_a_bad_page(a: Client, conversation: str, listing: str, name: str, value: str) -> None:
    path = f"/v1/conversations/{conversation}/items"
    if listing == "response":
        path = f"/v1/responses/{(await say(a, 'hello')).json()['id']}/input_items"
    check_error(await a.get(path, params={name: value}), 400, name)


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "", "²", "9" * 13, "9" * 5000])
async def test_a_bad_cursor_never_starts_at_the_beginning(a: Client, value: str) -> None:
    identifier = (await say(a, "hello")).json()["id"]
    answered = await a.get(f"/v1/responses/{identifier}", params={"stream": "true", "starting_after": value})
    check_error(answered, 400, "starting_after")


# --- sizes ------------------------------------------------------------------------------------------------------------


class Raw:
    """A connection on which a request is sent byte by byte."""

    def __init__(self, pod: Pod) -> None:
        self._port = pod.port

    async def __aenter__(self) -> Raw:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def status(self) -> int:
        """The status of the answer, read with its head."""
        async with asyncio.timeout(5):
            head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1])


HEAD = b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


async def test_a_declared_body_that_is_too_long_is_refused_before_it_is_sent(pods: list[Pod]) -> None:
    async with Raw(pods[0]) as raw:
        await raw.send(HEAD + b"Content-Length: %d\r\n\r\n" % (LIMIT + 1))
        assert await raw.status() == 413


async def test_a_chunked_body_is_refused_as_soon_as_it_is_too_long(pods: list[Pod]) -> None:
    async with Raw(pods[0]) as raw:
        await raw.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(LIMIT // 65_536):
            await raw.send(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        await raw.send(b"1\r\nx\r\n")  # one byte too many, and no end
        assert await raw.status() == 413


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/conversations", "/v1/conversations/{}/items"])
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_a_body_that_is_too_long(a: Client, conversation: str, path: str, declared: bool) -> None:
    async def pieces() -> Any:
        for _ in range(20):
            yield b" " * 65_536

    content: Any = b" " * (LIMIT + 1) if declared else pieces()
    answered = await a.post(path.format(conversation), content=content)
    check_error(answered, 413, None, "body_too_large")
    assert len(await history(a, conversation)) == 2


async def test_a_body_of_exactly_the_limit_is_read(a: Client) -> None:
    body = b'{"model": "echo", "input": "hello"}'
    assert (await a.post("/v1/responses", content=body + b" " * (LIMIT - len(body)))).status_code == 200


async def test_items_that_are_too_many_or_too_large_are_not_appended(a: Client, conversation: str) -> None:
    item = {"role": "user", "content": "x"}
    path = f"/v1/conversations/{conversation}/items"
    check_error(await a.post(path, json={"items": [item] * 513}), 400, "items", "array_above_max_length")
    large = {"role": "user", "content": "x" * 300_000}
    check_error(await a.post(path, json={"items": [item, large]}), 400, "items[1]", "item_too_large")
    check_error(await a.post(path, json={}), 400, "items")
    check_error(await a.post("/v1/conversations", json={"items": [large]}), 400, "items[0]")
    assert len(await history(a, conversation)) == 2


# --- routes, methods, headers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/conversations/a/b/c/d", "/v2/responses", "/v1/é"])
async def test_an_unknown_route(a: Client, path: str) -> None:
    for method in ("GET", "POST"):
        check_error(await a.request(method, path), 404, None, "unknown_url")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/operator/nothing", 404), ("PUT", "/operator/queue", 405)]
)
async def test_an_unknown_native_route(a: Client, method: str, path: str, status: int) -> None:
    answered = await a.request(method, path)
    assert answered.status_code == status
    assert answered.headers["content-type"] == "application/problem+json"
    assert answered.json()["status"] == status


WRONG_METHODS = [
    ("GET", "/v1/responses", {"POST"}),
    ("PUT", f"/v1/responses/{RESP}", {"GET", "DELETE"}),
    ("GET", f"/v1/responses/{RESP}/cancel", {"POST"}),
    ("PATCH", f"/v1/conversations/{CONV}", {"GET", "POST", "DELETE"}),
    ("POST", "/v1/models", {"GET"}),
    ("POST", "/readyz", {"GET"}),
]


@pytest.mark.parametrize(("method", "path"), [case[:2] for case in WRONG_METHODS])
async def test_a_wrong_method(a: Client, method: str, path: str) -> None:
    check_error(await a.request(method, path), 405, None, "method_not_allowed")


@pytest.mark.parametrize(("method", "path", "allowed"), WRONG_METHODS)
async def test_a_wrong_method_is_told_the_right_ones(a: Client, method: str, path: str, allowed: set[str]) -> None:
    """RFC 9110: a 405 must bear `Allow`."""
    answered = await a.request(method, path)
    listed = {name.strip() for name in answered.headers.get("allow", "").split(",")}
    assert listed - {"HEAD"} == allowed


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/conversations"])
async def test_an_idempotency_key_that_is_too_long(a: Client, path: str) -> None:
    body = {"model": "echo", "input": "hello"}
    fits = await a.post(path, json=body, headers={"Idempotency-Key": "k" * 255})
    assert fits.status_code == 200
    answered = await a.post(path, json=body, headers={"Idempotency-Key": "k" * 256})
    check_error(answered, 400, "Idempotency-Key")


async def test_an_unknown_policy_in_the_header(a: Client, conversation: str) -> None:
    answered = await say(a, "hello", conversation=conversation, headers={"X-Agentrt-On-Busy": "panic"})
    assert answered.status_code == 400
    assert len(await history(a, conversation)) == 2


async def test_after_all_that_the_pod_still_serves(a: Client, conversation: str) -> None:
    for _, wrong, _ in BAD:
        assert (await say(a, "hello", **{"conversation": conversation, **wrong})).status_code >= 400
    assert (await say(a, "hello", conversation=conversation)).status_code == 200
