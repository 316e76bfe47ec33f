"""From `provider:name` to a model: one instance a pod, with its connections, made on first use.

An adapter is imported when an agent uses it: the two SDKs take seconds to import, and a pod that restarts is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agentrt.errors import DeclarationError
from agentrt.models.base import Model
from agentrt.models.circuit import Circuit, State
from agentrt.models.scripted import SCRIPTS, ScriptedModel

__all__ = ["Credentials", "Models"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys and base URLs of the providers; an empty URL is the provider's own."""

    openai_api_key: str = ""
    openai_base_url: str = ""
    anthropic_api_key: str = ""
    anthropic_base_url: str = ""
    openai_chat_api_key: str = ""
    openai_chat_base_url: str = ""
    gap_s: float = 60.0
    """Longest silence of a provider within a call, the one before its first byte included."""


class Models:
    """The models of a pod, each with its circuit. `given` are instances that the application brings along, by their
    full name; `changed` hears of every new state of a model's circuit."""

    def __init__(
        self,
        credentials: Credentials,
        given: Mapping[str, Model],
        changed: Callable[[str, State], None],
    ) -> None:
        self._credentials = credentials
        self._models: dict[str, Model] = dict(given)
        self._circuits: dict[str, Circuit] = {}
        self._changed = changed

    def __call__(self, name: str) -> Model:
        """The model of that name. Raises `DeclarationError` for one that cannot be had."""
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = self._make(name)
        return model

    def circuit(self, name: str) -> Circuit:
        """What this pod has seen of that model lately."""
        circuit = self._circuits.get(name)
        if circuit is None:
            circuit = self._circuits[name] = Circuit(lambda state: self._changed(name, state))
        return circuit

    def _make(self, full_name: str) -> Model:
        provider, _, name = full_name.partition(":")
        keys = self._credentials
        match provider:
            case "scripted" if name in SCRIPTS:
                return ScriptedModel(name, SCRIPTS[name])
            case "openai":
                if not keys.openai_api_key:
                    raise DeclarationError(f"model {full_name}: OPENAI_API_KEY is not set")
                from agentrt.models.openai import OpenAIModel

                return OpenAIModel(
                    name, api_key=keys.openai_api_key, base_url=keys.openai_base_url or None, timeout_s=keys.gap_s
                )
            case "openai-chat":
                url = keys.openai_chat_base_url
                if not url:
                    raise DeclarationError(f"model {full_name}: AGENTRT_OPENAI_CHAT_BASE_URL is not set")
                from agentrt.models.openai import OpenAIChatModel

                key = keys.openai_chat_api_key or "none"  # many such servers want no key, the SDK wants one
                return OpenAIChatModel(name, api_key=key, base_url=url, timeout_s=keys.gap_s)
            case "anthropic":
                if not keys.anthropic_api_key:
                    raise DeclarationError(f"model {full_name}: ANTHROPIC_API_KEY is not set")
                from agentrt.models.anthropic import AnthropicModel

                return AnthropicModel(
                    name, api_key=keys.anthropic_api_key, base_url=keys.anthropic_base_url or None, timeout_s=keys.gap_s
                )
        raise DeclarationError(f"there is no model {full_name!r}")

    async def aclose(self) -> None:
        """Close all connections."""
        for model in self._models.values():
            await model.aclose()
