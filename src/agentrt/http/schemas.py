"""The JSON schemas of what goes in and out, for `/openapi.json`. What is sent is told in full; what comes is checked by
`body` and `items`, so its schemas say only what those insist on."""

from __future__ import annotations

from agentrt.http.shapes import (
    COUNT,
    FLAG,
    METADATA,
    NAME,
    NUMBER,
    OBJECT,
    TEXT,
    Schema,
    array,
    one_of,
    or_null,
    ref,
    table,
)
from agentrt.http.user_schemas import USER_SCHEMAS

__all__ = ["SCHEMAS"]

_USAGE = table(
    {
        "input_tokens": COUNT,
        "input_tokens_details": table({"cached_tokens": COUNT}),
        "output_tokens": COUNT,
        "output_tokens_details": table({"reasoning_tokens": COUNT}),
        "total_tokens": COUNT,
    }
)

_RESPONSE = table(
    {
        "id": {"type": "string", "pattern": "^resp_[0-9A-Za-z]{44}$"},
        "object": one_of("response"),
        "created_at": COUNT,
        "completed_at": or_null(COUNT),
        "status": one_of("queued", "in_progress", "completed", "failed", "incomplete", "cancelled"),
        "incomplete_details": or_null(table({"reason": one_of("max_output_tokens", "content_filter")})),
        "error": or_null(table({"code": TEXT, "message": TEXT})),
        "model": TEXT,
        "previous_response_id": or_null(TEXT),
        "conversation": or_null(table({"id": TEXT})),
        "output": array(ref("Item")),
        "usage": or_null(_USAGE),
        "instructions": or_null(TEXT),
        "tool_choice": {"type": ["string", "object"]},
        "truncation": one_of("auto", "disabled"),
        "parallel_tool_calls": FLAG,
        "text": OBJECT,
        "top_p": NUMBER,
        "presence_penalty": NUMBER,
        "frequency_penalty": NUMBER,
        "top_logprobs": COUNT,
        "temperature": NUMBER,
        "reasoning": or_null(OBJECT),
        "max_output_tokens": or_null(COUNT),
        "max_tool_calls": or_null(COUNT),
        "store": FLAG,
        "background": FLAG,
        "service_tier": TEXT,
        "safety_identifier": or_null(TEXT),
        "prompt_cache_key": or_null(TEXT),
        "metadata": METADATA,
        "tools": array(OBJECT),
    },
    closed=True,
)

_STATUS = one_of("in_progress", "completed", "incomplete", "failed")
_ITEM_TYPES: dict[str, Schema] = {
    "message": {"role": one_of("user", "assistant", "system", "developer"), "content": array(table({"type": TEXT}))},
    "function_call": {"call_id": TEXT, "name": TEXT, "arguments": TEXT},
    "function_call_output": {"call_id": TEXT, "output": {"type": ["string", "array"]}},
    "reasoning": {"summary": array(OBJECT)},
    "mcp_call": {"name": TEXT, "arguments": TEXT, "server_label": TEXT},
    "mcp_approval_request": {"name": TEXT, "arguments": TEXT, "server_label": TEXT},
    "mcp_approval_response": {"approval_request_id": TEXT, "approve": FLAG},
    "compaction": {"encrypted_content": TEXT},
}
_ITEM = {
    "oneOf": [
        table({"id": TEXT, "type": one_of(kind), **fields}, {"status": _STATUS}) for kind, fields in _ITEM_TYPES.items()
    ]
}
_REFERENCE = table({"id": TEXT}, {"type": or_null(one_of("item_reference"))})
_INPUT_ITEM = {
    "anyOf": [
        table({"role": one_of("user", "assistant", "system", "developer"), "content": {"type": ["string", "array"]}}),
        table({"type": one_of("reasoning")}, {"summary": or_null(array(OBJECT))}),
        *(
            table({"type": one_of(kind), **fields})
            for kind, fields in _ITEM_TYPES.items()
            if kind not in {"message", "reasoning"}
        ),
    ]
}

_EFFORT = one_of("none", "minimal", "low", "medium", "high", "xhigh", "max")
_SHARED_OPTIONS: Schema = {
    "temperature": or_null({"type": "number", "minimum": 0, "maximum": 2}),
    "top_p": or_null({"type": "number", "minimum": 0, "maximum": 1}),
    "presence_penalty": or_null({"type": "number", "minimum": -2, "maximum": 2}),
    "frequency_penalty": or_null({"type": "number", "minimum": -2, "maximum": 2}),
    "parallel_tool_calls": or_null(FLAG),
    "service_tier": or_null(TEXT),
    "safety_identifier": or_null(NAME),
    "user": or_null(NAME),
    "prompt_cache_key": or_null(TEXT),
    "metadata": or_null(METADATA),
    "stream": or_null(FLAG),
    "tool_choice": or_null({"anyOf": [one_of("none", "auto", "required"), table({"type": TEXT})]}),
    "tools": or_null(array(OBJECT)),
}
_LIMIT = or_null({"type": "integer", "minimum": 1})

_RESPONSE_REQUEST = table(
    {"model": TEXT, "input": {"anyOf": [TEXT, array({"anyOf": [_INPUT_ITEM, _REFERENCE]}, minItems=1)]}},
    {
        **_SHARED_OPTIONS,
        "instructions": or_null(TEXT),
        "conversation": {"anyOf": [TEXT, table({"id": TEXT}), {"type": "null"}]},
        "previous_response_id": or_null(TEXT),
        "max_output_tokens": _LIMIT,
        "max_tool_calls": _LIMIT,
        "top_logprobs": or_null({"type": "integer", "minimum": 0, "maximum": 20}),
        "truncation": or_null(one_of("auto", "disabled")),
        "store": or_null(FLAG),
        "background": or_null(FLAG),
        "text": or_null(OBJECT),
        "reasoning": or_null(table({}, {"effort": or_null(_EFFORT)})),
        "include": or_null(array(TEXT, maxItems=32)),
    },
)

_COMPACT_REQUEST = table(
    {"model": TEXT},
    {
        "input": {"anyOf": [TEXT, array(_INPUT_ITEM, minItems=1), {"type": "null"}]},
        "previous_response_id": or_null(TEXT),
        "instructions": or_null(TEXT),
        "prompt_cache_key": or_null(TEXT),
        "service_tier": or_null(TEXT),
    },
)
_COMPACTION = table(
    {
        "id": {"type": "string", "pattern": "^resp_[0-9A-Za-z]{44}$"},
        "object": one_of("response.compaction"),
        "created_at": COUNT,
        "output": array(ref("Item"), minItems=1),
        "usage": or_null(_USAGE),
    },
    closed=True,
)

_CHAT_USAGE = table({"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT})
_FINISH = one_of("stop", "length", "tool_calls", "content_filter")
_TOOL_CALL = table({"id": TEXT, "type": one_of("function"), "function": table({"name": TEXT, "arguments": TEXT})})
_CHAT_HEAD: Schema = {"id": TEXT, "created": COUNT, "model": TEXT}
_MESSAGE = table(
    {"role": one_of("assistant"), "content": or_null(TEXT), "refusal": or_null(TEXT)},
    {"tool_calls": array(_TOOL_CALL)},
)
_ZERO: Schema = {"type": "integer", "enum": [0]}

_EFFECT = table(
    {
        "id": TEXT,
        "tenant": NAME,
        "conversation": TEXT,
        "response": TEXT,
        "tool": TEXT,
        "effect": one_of("read_only", "idempotent", "at_most_once"),
        "arguments": TEXT,
        "idempotency_key": TEXT,
        "fencing_token": COUNT,
        "state": one_of("in_doubt", "resolved"),
        "blocks_the_conversation": FLAG,
        "reason": or_null(TEXT),
        "planned_at": COUNT,
        "in_doubt_since": COUNT,
        "pod": TEXT,
        "attempt": COUNT,
        "late_result": or_null(OBJECT),
        "resolution": or_null(OBJECT),
    },
    {"continued_by": or_null(TEXT)},
)

_RUN_HEAD: Schema = {"response": TEXT, "status": TEXT, "created_at": COUNT}
_NATIVE: dict[str, Schema] = {
    "PodList": table(
        {
            "pods": array(
                table(
                    {
                        "pod": TEXT,
                        "pid": COUNT,
                        "started_at": COUNT,
                        "ready": FLAG,
                        "leaving": FLAG,
                        "runs_in_flight": COUNT,
                        "runs_capacity": COUNT,
                        "seen_seconds_ago": NUMBER,
                    }
                )
            )
        }
    ),
    "Queue": table(
        {
            "depth": COUNT,
            "oldest_seconds": NUMBER,
            "classes": table({"recovered": COUNT, "interactive": COUNT, "background": COUNT}, closed=True),
            "leased": COUNT,
            "dead_letters": COUNT,
        },
        closed=True,
    ),
    "Session": table(
        {
            "tenant": NAME,
            "conversation": TEXT,
            "user": TEXT,
            "agent": TEXT,
            "created_at": COUNT,
            "updated_at": COUNT,
            "items": COUNT,
            "revision": COUNT,
            "pod": or_null(TEXT),
            "live_response": or_null(TEXT),
            "newest_response": or_null(TEXT),
            "waiting": array(TEXT),
            "effects_in_doubt": COUNT,
            "schema_version": COUNT,
        },
        closed=True,
    ),
    "RunList": table(
        {"runs": array(table({**_RUN_HEAD, "attempt": COUNT, "pod": or_null(TEXT), "cancel_asked": FLAG}))}
    ),
    "Run": table({**_RUN_HEAD, "tenant": NAME, "agent": TEXT, "usage": or_null(_USAGE), "effects": array(OBJECT)}),
}

SCHEMAS: dict[str, Schema] = {
    **USER_SCHEMAS,
    "Any": OBJECT,
    "Text": TEXT,
    "Error": table(
        {"error": table({"message": TEXT, "type": TEXT, "param": or_null(TEXT), "code": TEXT}, closed=True)},
        closed=True,
    ),
    "Problem": table({"type": TEXT, "title": TEXT, "status": COUNT, "detail": TEXT}, {"code": TEXT}),
    "Response": _RESPONSE,
    "ResponseRequest": _RESPONSE_REQUEST,
    "CompactRequest": _COMPACT_REQUEST,
    "Compaction": _COMPACTION,
    "ResponseEvent": table({"type": TEXT, "sequence_number": COUNT}, {"response": ref("Response")}),
    "Item": _ITEM,
    "ItemList": table(
        {
            "object": one_of("list"),
            "data": array(ref("Item")),
            "first_id": or_null(TEXT),
            "last_id": or_null(TEXT),
            "has_more": FLAG,
        },
        closed=True,
    ),
    "ItemsRequest": table({"items": array(_INPUT_ITEM, minItems=1)}),
    "Conversation": table(
        {
            "id": {"type": "string", "pattern": "^conv_[0-9A-Za-z]{22}$"},
            "object": one_of("conversation"),
            "created_at": COUNT,
            "metadata": METADATA,
        },
        closed=True,
    ),
    "ConversationRequest": table({}, {"items": or_null(array(_INPUT_ITEM)), "metadata": or_null(METADATA)}),
    "MetadataRequest": table({}, {"metadata": or_null(METADATA)}),
    "Deleted": table({"id": TEXT, "object": TEXT, "deleted": {"type": "boolean", "enum": [True]}}, closed=True),
    "ChatRequest": table(
        {"model": TEXT, "messages": array(table({"role": TEXT}), minItems=1)},
        {
            **_SHARED_OPTIONS,
            "max_tokens": _LIMIT,
            "max_completion_tokens": _LIMIT,
            "n": or_null({"type": "integer", "enum": [1]}),
            "response_format": or_null(table({"type": one_of("text", "json_object", "json_schema")})),
            "reasoning_effort": or_null(_EFFORT),
            "stream_options": or_null(OBJECT),
        },
    ),
    "ChatCompletion": table(
        {
            **_CHAT_HEAD,
            "object": one_of("chat.completion"),
            "choices": array(table({"index": _ZERO, "message": _MESSAGE, "finish_reason": _FINISH}), maxItems=1),
            "usage": or_null(_CHAT_USAGE),
        }
    ),
    "ChatChunk": table(
        {
            **_CHAT_HEAD,
            "object": one_of("chat.completion.chunk"),
            "choices": array(table({"index": _ZERO, "delta": OBJECT, "finish_reason": or_null(_FINISH)})),
        },
        {"usage": or_null(_CHAT_USAGE)},
    ),
    "Model": table({"id": TEXT, "object": one_of("model"), "created": COUNT, "owned_by": TEXT}, closed=True),
    "ModelList": table({"object": one_of("list"), "data": array(ref("Model"))}, closed=True),
    "Effect": _EFFECT,
    "EffectList": table({"effects": array(_EFFECT)}),
    "Resolution": table({"happened": FLAG}, {"output": {}}),
    **_NATIVE,
    "Health": table({"status": TEXT, "pod": TEXT, "pid": COUNT, "checks": OBJECT}),
}
