"""Traces by OpenTelemetry: one a run, whichever pods work on it, because its context is kept in the run's record.

    arrival          of the message; it ends at once, so it survives its pod
      invoke_agent   an attempt of the run on some pod
        chat         one try of a model call
        execute_tool one tool call

On when OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT) is set; otherwise nothing is made, kept or sent. The other
OTEL_* variables (sampler, service name, resource, headers, batching) are the SDK's own. Names of spans and attributes
are the GenAI conventions, which are still in development: they stand here and nowhere else. Content of messages and of
tool calls comes into spans only with OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true; the text of errors never.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agentrt.errors import SettingsError

__all__ = ["OFF", "Tracing", "exemplar", "open_tracing"]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_FLUSH_S = 3.0
_CONTENT_MAX = 32_768
_NO_SPAN = nullcontext(INVALID_SPAN)

_PROPAGATOR = TraceContextTextMapPropagator()


class Tracing:
    """Makes spans, or, without a tracer, nothing at all."""

    def __init__(
        self, tracer: Tracer | None = None, shut_down: Callable[[], None] | None = None, content: bool = False
    ) -> None:
        self._tracer = tracer
        self._shut_down = shut_down
        self.content = content and tracer is not None
        """Whether what people and models say may be put into spans."""

    async def aclose(self) -> None:
        """Send what is not sent yet, for some seconds at most: a receiver that is away must not hold up a pod's end."""
        if self._shut_down is None:
            return
        loop, shut_down, done = asyncio.get_running_loop(), self._shut_down, asyncio.Event()

        def work() -> None:
            shut_down()
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=work, name="agentrt-traces", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                await done.wait()

    def arrival(self, agent: str, headers: Mapping[str, str]) -> str:
        """The context (`traceparent`) that a new run keeps; empty when off. Goes on with the client's trace."""
        if self._tracer is None:
            return ""
        carrier = {"traceparent": headers.get("traceparent", "")}
        span = self._tracer.start_span(f"arrival {agent}", _PROPAGATOR.extract(carrier), kind=SpanKind.SERVER)
        span.end()
        kept: dict[str, str] = {}
        _PROPAGATOR.inject(kept, trace.set_span_in_context(span))
        return kept.get("traceparent", "")

    def run(self, context: str, agent: str, conversation: str, run: str, attempt: int) -> AbstractContextManager[Span]:
        """An attempt of a run whose record keeps `context`."""
        if self._tracer is None:
            return _NO_SPAN
        return _recorded(
            self._tracer,
            f"invoke_agent {agent}",
            SpanKind.INTERNAL,
            {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": agent,
                "gen_ai.conversation.id": conversation,
                "agentrt.run": run,
                "agentrt.attempt": attempt,
            },
            _PROPAGATOR.extract({"traceparent": context}),
        )

    def chat(self, provider: str, model: str, agent: str) -> AbstractContextManager[Span]:
        """One try of a model call."""
        if self._tracer is None:
            return _NO_SPAN
        return _recorded(
            self._tracer,
            f"chat {model}",
            SpanKind.CLIENT,
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": provider,
                "gen_ai.request.model": model,
                "gen_ai.agent.name": agent,
            },
        )

    def tool(self, name: str, item: str, effect: str) -> AbstractContextManager[Span]:
        """One tool call; `item` is the id of its item in the history."""
        if self._tracer is None:
            return _NO_SPAN
        return _recorded(
            self._tracer,
            f"execute_tool {name}",
            SpanKind.INTERNAL,
            {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": name,
                "gen_ai.tool.call.id": item,
                "agentrt.effect": effect,
            },
        )

    def said(self, span: Span, inputs: Sequence[bytes]) -> None:
        """Put the items of a model call into its span, where that is wanted; the newest, up to a bound."""
        if self.content:
            kept: list[bytes] = []
            size = 0
            for item in reversed(inputs):
                size += len(item) + 1
                if size > _CONTENT_MAX:
                    break
                kept.append(item)
            span.set_attribute("gen_ai.input.messages", (b"[" + b",".join(reversed(kept)) + b"]").decode())

    @staticmethod
    def used(span: Span, finish: str, input_tokens: int | None, output_tokens: int | None) -> None:
        """How a model call ended and what it used; None where the provider did not say."""
        span.set_attribute("gen_ai.response.finish_reasons", [finish])
        if input_tokens is not None and output_tokens is not None:
            span.set_attribute("gen_ai.usage.input_tokens", input_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", output_tokens)

    @staticmethod
    def ended(span: Span, outcome: str, failed: bool) -> None:
        """How a run or a call ended: a word of a closed set."""
        span.set_attribute("agentrt.outcome", outcome)
        if failed:
            span.set_status(Status(StatusCode.ERROR, outcome))

    def called(self, span: Span, arguments: str, output: str) -> None:
        """Put a tool call's content into its span, where that is wanted."""
        if self.content:
            span.set_attribute("gen_ai.tool.call.arguments", arguments[:_CONTENT_MAX])
            span.set_attribute("gen_ai.tool.call.result", output[:_CONTENT_MAX])


@contextmanager
def _recorded(
    tracer: Tracer, name: str, kind: SpanKind, attributes: Mapping[str, str | int], parent: Context | None = None
) -> Iterator[Span]:
    """A span around a block. Of an error it tells the type alone: its text may be a customer's."""
    with tracer.start_as_current_span(
        name, parent, kind, attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def exemplar(context: str) -> dict[str, str] | None:
    """The labels by which a measurement of a run names its trace; None for one that is not sampled, or not traced."""
    if not context:
        return None
    found = trace.get_current_span(_PROPAGATOR.extract({"traceparent": context})).get_span_context()
    return {"trace_id": f"{found.trace_id:032x}"} if found.trace_flags.sampled else None


OFF = Tracing()


def open_tracing(pod: str, env: Mapping[str, str] | None = None) -> Tracing:
    """What the OTEL_* variables ask for. Raises `SettingsError` when the exporter is not installed."""
    env = os.environ if env is None else env
    if not any(env.get(name) for name in _ENDPOINTS) or env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return OFF
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{_ENDPOINTS[0]} is set, but {error.name} is missing: pip install 'agentrt[otel]'"
        ) from error
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {} if env.get("OTEL_SERVICE_NAME") else {"service.name": "agentrt"}
    provider = TracerProvider(resource=Resource.create({**named, "service.instance.id": pod}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider.get_tracer("agentrt"), provider.shutdown, env.get(_CONTENT, "").lower() == "true")
