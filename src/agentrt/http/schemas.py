"""The JSON schemas of what goes in and out, for `/openapi.json`. What is sent is told in full; what comes is checked by
`body` and `items`, so its schemas say only what those insist on."""

from __future__ import annotations

from typing import Any

__all__ = ["SCHEMAS"]

_Schema = dict[str, Any]

_TEXT: _Schema = {"type": "string"}
_FLAG: _Schema = {"type": "boolean"}
_COUNT: _Schema = {"type": "integer", "minimum": 0}
_NUMBER: _Schema = {"type": "number"}
_OBJECT: _Schema = {"type": "object"}
_NAME: _Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
_METADATA: _Schema = {
    "type": "object",
    "maxProperties": 16,
    "additionalProperties": {"type": "string", "maxLength": 512},
}


def _ref(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(of: _Schema, **more: Any) -> _Schema:
    return {"type": "array", "items": of, **more}


def _or_null(schema: _Schema) -> _Schema:
    if "type" in schema and "enum" not in schema and isinstance(schema["type"], str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _const(*values: str) -> _Schema:
    return {"type": "string", "enum": list(values)}


def _table(required: _Schema, optional: _Schema | None = None, *, closed: bool = False) -> _Schema:
    """An object: what is always there, what may be; `closed`: nothing else."""
    made: _Schema = {"type": "object", "properties": {**required, **(optional or {})}, "required": sorted(required)}
    if closed:
        made["additionalProperties"] = False
    return made


_USAGE = _table(
    {
        "input_tokens": _COUNT,
        "input_tokens_details": _table({"cached_tokens": _COUNT}),
        "output_tokens": _COUNT,
        "output_tokens_details": _table({"reasoning_tokens": _COUNT}),
        "total_tokens": _COUNT,
    }
)

_RESPONSE = _table(
    {
        "id": {"type": "string", "pattern": "^resp_[0-9A-Za-z]{44}$"},
        "object": _const("response"),
        "created_at": _COUNT,
        "completed_at": _or_null(_COUNT),
        "status": _const("queued", "in_progress", "completed", "failed", "incomplete", "cancelled"),
        "incomplete_details": _or_null(_table({"reason": _const("max_output_tokens", "content_filter")})),
        "error": _or_null(_table({"code": _TEXT, "message": _TEXT})),
        "model": _TEXT,
        "previous_response_id": _or_null(_TEXT),
        "conversation": _or_null(_table({"id": _TEXT})),
        "output": _list(_ref("Item")),
        "usage": _or_null(_USAGE),
        "instructions": _or_null(_TEXT),
        "tool_choice": {"type": ["string", "object"]},
        "truncation": _const("auto", "disabled"),
        "parallel_tool_calls": _FLAG,
        "text": _OBJECT,
        "top_p": _NUMBER,
        "presence_penalty": _NUMBER,
        "frequency_penalty": _NUMBER,
        "top_logprobs": _COUNT,
        "temperature": _NUMBER,
        "reasoning": _or_null(_OBJECT),
        "max_output_tokens": _or_null(_COUNT),
        "max_tool_calls": _or_null(_COUNT),
        "store": _FLAG,
        "background": _FLAG,
        "service_tier": _TEXT,
        "safety_identifier": _or_null(_TEXT),
        "prompt_cache_key": _or_null(_TEXT),
        "metadata": _METADATA,
        "tools": _list(_OBJECT),
    },
    closed=True,
)

_STATUS = _const("in_progress", "completed", "incomplete", "failed")
_ITEM_TYPES: dict[str, _Schema] = {
    "message": {"role": _const("user", "assistant", "system", "developer"), "content": _list(_table({"type": _TEXT}))},
    "function_call": {"call_id": _TEXT, "name": _TEXT, "arguments": _TEXT},
    "function_call_output": {"call_id": _TEXT, "output": {"type": ["string", "array"]}},
    "reasoning": {"summary": _list(_OBJECT)},
    "mcp_call": {"name": _TEXT, "arguments": _TEXT, "server_label": _TEXT},
    "mcp_approval_request": {"name": _TEXT, "arguments": _TEXT, "server_label": _TEXT},
    "mcp_approval_response": {"approval_request_id": _TEXT, "approve": _FLAG},
    "compaction": {"encrypted_content": _TEXT},
}
_ITEM = {
    "oneOf": [
        _table({"id": _TEXT, "type": _const(kind), **fields}, {"status": _STATUS})
        for kind, fields in _ITEM_TYPES.items()
    ]
}
_REFERENCE = _table({"id": _TEXT}, {"type": _or_null(_const("item_reference"))})
_INPUT_ITEM = {
    "anyOf": [
        _table({"role": _const("user", "assistant", "system", "developer"), "content": {"type": ["string", "array"]}}),
        *(_table({"type": _const(kind), **fields}) for kind, fields in _ITEM_TYPES.items() if kind != "message"),
    ]
}

_EFFORT = _const("none", "minimal", "low", "medium", "high", "xhigh", "max")
_SHARED_OPTIONS: _Schema = {
    "temperature": _or_null({"type": "number", "minimum": 0, "maximum": 2}),
    "top_p": _or_null({"type": "number", "minimum": 0, "maximum": 1}),
    "presence_penalty": _or_null({"type": "number", "minimum": -2, "maximum": 2}),
    "frequency_penalty": _or_null({"type": "number", "minimum": -2, "maximum": 2}),
    "parallel_tool_calls": _or_null(_FLAG),
    "service_tier": _or_null(_TEXT),
    "safety_identifier": _or_null(_NAME),
    "user": _or_null(_NAME),
    "prompt_cache_key": _or_null(_TEXT),
    "metadata": _or_null(_METADATA),
    "stream": _or_null(_FLAG),
    "tool_choice": _or_null({"anyOf": [_const("none", "auto", "required"), _table({"type": _TEXT})]}),
    "tools": _or_null(_list(_OBJECT)),
}
_LIMIT = _or_null({"type": "integer", "minimum": 1})

_RESPONSE_REQUEST = _table(
    {"model": _TEXT, "input": {"anyOf": [_TEXT, _list({"anyOf": [_INPUT_ITEM, _REFERENCE]}, minItems=1)]}},
    {
        **_SHARED_OPTIONS,
        "instructions": _or_null(_TEXT),
        "conversation": {"anyOf": [_TEXT, _table({"id": _TEXT}), {"type": "null"}]},
        "previous_response_id": _or_null(_TEXT),
        "max_output_tokens": _LIMIT,
        "max_tool_calls": _LIMIT,
        "top_logprobs": _or_null({"type": "integer", "minimum": 0, "maximum": 20}),
        "truncation": _or_null(_const("auto", "disabled")),
        "store": _or_null(_FLAG),
        "background": _or_null(_FLAG),
        "text": _or_null(_OBJECT),
        "reasoning": _or_null(_table({}, {"effort": _or_null(_EFFORT)})),
        "include": _or_null(_list(_TEXT, maxItems=32)),
    },
)

_COMPACT_REQUEST = _table(
    {"model": _TEXT},
    {
        "input": {"anyOf": [_TEXT, _list(_INPUT_ITEM, minItems=1), {"type": "null"}]},
        "previous_response_id": _or_null(_TEXT),
        "instructions": _or_null(_TEXT),
        "prompt_cache_key": _or_null(_TEXT),
        "service_tier": _or_null(_TEXT),
    },
)
_COMPACTION = _table(
    {
        "id": {"type": "string", "pattern": "^resp_[0-9A-Za-z]{44}$"},
        "object": _const("response.compaction"),
        "created_at": _COUNT,
        "output": _list(_ref("Item"), minItems=1),
        "usage": _or_null(_USAGE),
    },
    closed=True,
)

_CHAT_USAGE = _table({"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT})
_FINISH = _const("stop", "length", "tool_calls", "content_filter")
_TOOL_CALL = _table({"id": _TEXT, "type": _const("function"), "function": _table({"name": _TEXT, "arguments": _TEXT})})
_CHAT_HEAD: _Schema = {"id": _TEXT, "created": _COUNT, "model": _TEXT}
_MESSAGE = _table(
    {"role": _const("assistant"), "content": _or_null(_TEXT), "refusal": _or_null(_TEXT)},
    {"tool_calls": _list(_TOOL_CALL)},
)
_ZERO: _Schema = {"type": "integer", "enum": [0]}

_EFFECT = _table(
    {
        "id": _TEXT,
        "tenant": _NAME,
        "conversation": _TEXT,
        "response": _TEXT,
        "tool": _TEXT,
        "effect": _const("read_only", "idempotent", "at_most_once"),
        "arguments": _TEXT,
        "idempotency_key": _TEXT,
        "fencing_token": _COUNT,
        "state": _const("in_doubt", "resolved"),
        "blocks_the_conversation": _FLAG,
        "reason": _or_null(_TEXT),
        "planned_at": _COUNT,
        "in_doubt_since": _COUNT,
        "pod": _TEXT,
        "attempt": _COUNT,
        "late_result": _or_null(_OBJECT),
        "resolution": _or_null(_OBJECT),
    },
    {"continued_by": _or_null(_TEXT)},
)

_RUN_HEAD: _Schema = {"response": _TEXT, "status": _TEXT, "created_at": _COUNT}
_NATIVE: dict[str, _Schema] = {
    "PodList": _table(
        {
            "pods": _list(
                _table(
                    {
                        "pod": _TEXT,
                        "pid": _COUNT,
                        "started_at": _COUNT,
                        "ready": _FLAG,
                        "leaving": _FLAG,
                        "runs_in_flight": _COUNT,
                        "runs_capacity": _COUNT,
                        "seen_seconds_ago": _NUMBER,
                    }
                )
            )
        }
    ),
    "Queue": _table(
        {
            "depth": _COUNT,
            "oldest_seconds": _NUMBER,
            "classes": _table({"recovered": _COUNT, "interactive": _COUNT, "background": _COUNT}, closed=True),
            "leased": _COUNT,
            "dead_letters": _COUNT,
        },
        closed=True,
    ),
    "Session": _table(
        {
            "tenant": _NAME,
            "conversation": _TEXT,
            "user": _TEXT,
            "agent": _TEXT,
            "created_at": _COUNT,
            "updated_at": _COUNT,
            "items": _COUNT,
            "revision": _COUNT,
            "pod": _or_null(_TEXT),
            "live_response": _or_null(_TEXT),
            "newest_response": _or_null(_TEXT),
            "waiting": _list(_TEXT),
            "effects_in_doubt": _COUNT,
            "schema_version": _COUNT,
        },
        closed=True,
    ),
    "RunList": _table(
        {"runs": _list(_table({**_RUN_HEAD, "attempt": _COUNT, "pod": _or_null(_TEXT), "cancel_asked": _FLAG}))}
    ),
    "Run": _table({**_RUN_HEAD, "tenant": _NAME, "agent": _TEXT, "usage": _or_null(_USAGE), "effects": _list(_OBJECT)}),
}

SCHEMAS: dict[str, _Schema] = {
    "Any": _OBJECT,
    "Text": _TEXT,
    "Error": _table(
        {"error": _table({"message": _TEXT, "type": _TEXT, "param": _or_null(_TEXT), "code": _TEXT}, closed=True)},
        closed=True,
    ),
    "Problem": _table({"type": _TEXT, "title": _TEXT, "status": _COUNT, "detail": _TEXT}, {"code": _TEXT}),
    "Response": _RESPONSE,
    "ResponseRequest": _RESPONSE_REQUEST,
    "CompactRequest": _COMPACT_REQUEST,
    "Compaction": _COMPACTION,
    "ResponseEvent": _table({"type": _TEXT, "sequence_number": _COUNT}, {"response": _ref("Response")}),
    "Item": _ITEM,
    "ItemList": _table(
        {
            "object": _const("list"),
            "data": _list(_ref("Item")),
            "first_id": _or_null(_TEXT),
            "last_id": _or_null(_TEXT),
            "has_more": _FLAG,
        },
        closed=True,
    ),
    "ItemsRequest": _table({"items": _list(_INPUT_ITEM, minItems=1)}),
    "Conversation": _table(
        {
            "id": {"type": "string", "pattern": "^conv_[0-9A-Za-z]{22}$"},
            "object": _const("conversation"),
            "created_at": _COUNT,
            "metadata": _METADATA,
        },
        closed=True,
    ),
    "ConversationRequest": _table({}, {"items": _or_null(_list(_INPUT_ITEM)), "metadata": _or_null(_METADATA)}),
    "MetadataRequest": _table({}, {"metadata": _or_null(_METADATA)}),
    "Deleted": _table({"id": _TEXT, "object": _TEXT, "deleted": {"type": "boolean", "enum": [True]}}, closed=True),
    "ChatRequest": _table(
        {"model": _TEXT, "messages": _list(_table({"role": _TEXT}), minItems=1)},
        {
            **_SHARED_OPTIONS,
            "max_tokens": _LIMIT,
            "max_completion_tokens": _LIMIT,
            "n": _or_null({"type": "integer", "enum": [1]}),
            "response_format": _or_null(_table({"type": _const("text", "json_object", "json_schema")})),
            "reasoning_effort": _or_null(_EFFORT),
            "stream_options": _or_null(_OBJECT),
        },
    ),
    "ChatCompletion": _table(
        {
            **_CHAT_HEAD,
            "object": _const("chat.completion"),
            "choices": _list(_table({"index": _ZERO, "message": _MESSAGE, "finish_reason": _FINISH}), maxItems=1),
            "usage": _or_null(_CHAT_USAGE),
        }
    ),
    "ChatChunk": _table(
        {
            **_CHAT_HEAD,
            "object": _const("chat.completion.chunk"),
            "choices": _list(_table({"index": _ZERO, "delta": _OBJECT, "finish_reason": _or_null(_FINISH)})),
        },
        {"usage": _or_null(_CHAT_USAGE)},
    ),
    "Model": _table({"id": _TEXT, "object": _const("model"), "created": _COUNT, "owned_by": _TEXT}, closed=True),
    "ModelList": _table({"object": _const("list"), "data": _list(_ref("Model"))}, closed=True),
    "Effect": _EFFECT,
    "EffectList": _table({"effects": _list(_EFFECT)}),
    "Resolution": _table({"happened": _FLAG}, {"output": {}}),
    **_NATIVE,
    "Health": _table({"status": _TEXT, "pod": _TEXT, "pid": _COUNT, "checks": _OBJECT}),
}
