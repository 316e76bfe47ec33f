"""Errors as the clients of `/v1` know them: `{"error": {message, type, param, code}}` and a status."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response

from agentrt.errors import DeclarationError, ForeignState, OwnershipLost, SchemaNewer, StoreUnavailable, UserGone
from agentrt.http.limits import quota_headers
from agentrt.runtime.allowance import QuotaExceeded
from agentrt.runtime.refusals import InDoubt, Leaving, Locked, NoSuchSession, OtherBody, Overloaded
from agentrt.store.access import Left

__all__ = ["ApiError", "Problem", "invalid", "json_response", "not_found", "to_api_error"]


class ApiError(Exception):
    """An answer that is not a success. `retry_after_s`: when to come again; `final`: no retry can cure it."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        final: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.final = final
        self.headers = headers or {}

    @property
    def kind(self) -> str:
        """The API's `type` of an error with this status."""
        if self.status >= 500:
            return "server_error"
        return {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
            self.status, "invalid_request_error"
        )

    def response(self) -> Response:
        """The HTTP response."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return json_response({"error": error}, self.status, self._all_headers())

    def native(self) -> Problem:
        """The same in the shape of the native routes."""
        return Problem(self.status, HTTPStatus(self.status).phrase, str(self), self._all_headers(), self.code)

    def _all_headers(self) -> dict[str, str]:
        headers = dict(self.headers)
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.final:
            headers["x-should-retry"] = "false"
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.status == 413:
            headers["connection"] = "close"  # or the rest of the body would be read to find the next request
        return headers


class Problem(Exception):
    """An answer of a native route that is not a success: `application/problem+json`, RFC 9457.

    `code`: the word that the rest of the surface has for it, where there is one; a member of its own.
    """

    def __init__(
        self, status: int, title: str, detail: str, headers: Mapping[str, str] | None = None, code: str = ""
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.headers = headers or {}
        self.code = code

    def response(self) -> Response:
        """The HTTP response."""
        body: dict[str, Any] = {"type": "about:blank", "title": self.title, "status": self.status, "detail": str(self)}
        if self.code:
            body["code"] = self.code
        return Response(orjson.dumps(body), self.status, dict(self.headers), "application/problem+json")


def json_response(data: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response; bytes are taken as JSON already."""
    content = data if isinstance(data, bytes) else orjson.dumps(data)
    return Response(content, status, headers, "application/json")


def invalid(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    """A request that cannot be understood."""
    return ApiError(400, code, message, param=param)


def not_found(what: str, identifier: str) -> ApiError:
    """Not there, or not yours: the same words for both."""
    return ApiError(404, "not_found", f"{what} with id '{identifier[:128]}' not found.", param="id")


def to_api_error(error: Exception) -> ApiError:
    """The answer to an error of the runtime; what is not known is a 500 that tells nothing."""
    match error:
        case ApiError():
            return error
        case Locked():
            message = f"{error}: {error.run}" if error.run else str(error)
            return ApiError(409, "conversation_locked", message, retry_after_s=error.retry_after_s)
        case InDoubt():
            where = f"POST /operator/effects/{error.effect}/resolve, or `agentrt effects resolve {error.effect}`"
            return ApiError(409, "effect_in_doubt", f"{error}: {where}", final=True)
        case OtherBody():
            return ApiError(422, "idempotency_key_reused", str(error), final=True)
        case NoSuchSession():
            return ApiError(404, "not_found", "Conversation not found.", param="conversation")
        case QuotaExceeded():
            return _over_quota(error)
        case Overloaded():
            return ApiError(429, "rate_limit_exceeded", str(error), retry_after_s=error.retry_after_s)
        case Leaving():
            return ApiError(503, "pod_leaving", str(error), retry_after_s=error.retry_after_s)
        case UserGone():
            return ApiError(409, "user_erased", "The user was erased meanwhile; nothing of this is kept.")
        case SchemaNewer():
            return ApiError(503, "schema_newer", str(error), retry_after_s=5)
        case OwnershipLost():  # of a message that nobody has worked on yet: its beginning went with a master, say
            return ApiError(503, "server_error", "The run is no longer this pod's. Send it again.", retry_after_s=1)
        case StoreUnavailable():
            message = f"the state store is not available ({error.reason})"
            return ApiError(503, "store_unavailable", message, retry_after_s=1)
        case DeclarationError():
            return ApiError(500, "agent_misconfigured", str(error), final=True)
        case ForeignState():
            return ApiError(500, "identity_mismatch", "stored state failed its identity check", final=True)
    return ApiError(500, "internal_error", "The server had an error while processing your request.")


def _over_quota(error: QuotaExceeded) -> ApiError:
    """A 429 that says which limit it is, and when it is worth to come again."""
    wait_s = error.retry_after_s
    headers = quota_headers([Left(error.kind, error.limit, 0, math.ceil(wait_s * 1000))])
    final = error.kind == "tokens"  # no client waits until tomorrow
    return ApiError(
        429, "rate_limit_exceeded", f"Over quota: {error}.", retry_after_s=wait_s, final=final, headers=headers
    )
