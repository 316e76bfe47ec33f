"""How much this pod has to do, told to Kubernetes, so that scaling in takes away the pods that have the least.

It is the annotation `controller.kubernetes.io/pod-deletion-cost` on the pod itself, which wants a service account with
the right to patch pods. Each write is work for the API server, so what is told is rough: the runs in flight rounded up
to a power of two, when that changes, and no more often than asked for. An API that refuses or is away costs nothing but
a line in the log: scaling in then takes the newest pods, which drain as well.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2

from agentrt.errors import SettingsError
from agentrt.tasks import end

__all__ = ["ANNOTATION", "MOUNT", "DeletionCost", "ServiceAccount"]

log = logging.getLogger("agentrt.deletion_cost")

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
MOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S = 5.0
_PAUSE_S = 60.0
"""The least time to the next try after one that failed."""


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """Where the API server is, and the folder with the token (which changes), the CA and the namespace."""

    url: str
    folder: Path

    @classmethod
    def mounted(cls, env: Mapping[str, str] | None = None, folder: Path | None = None) -> ServiceAccount:
        """This pod's. Raises `SettingsError` where it has none."""
        env, folder = os.environ if env is None else env, folder or MOUNT
        host, port = env.get("KUBERNETES_SERVICE_HOST", ""), env.get("KUBERNETES_SERVICE_PORT", "443")
        missing = [name for name in ("token", "ca.crt", "namespace") if not (folder / name).is_file()]
        if not host or missing:
            raise SettingsError(
                "AGENTRT_DELETION_COST_S is set, but this pod has no service account: "
                + (f"no {', '.join(missing)} in {folder}" if missing else "KUBERNETES_SERVICE_HOST is not set")
            )
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}", folder)

    def read(self, name: str) -> str:
        """What a file of it says now."""
        return (self.folder / name).read_text(encoding="utf-8").strip()


class DeletionCost:
    """Keeps the annotation of the pod of this name current; `runs` are those in flight."""

    def __init__(self, account: ServiceAccount, pod: str, runs: Callable[[], int], period_s: float) -> None:
        self._account = account
        self._runs = runs
        self._period_s = period_s
        self._path = f"{account.url}/api/v1/namespaces/{account.read('namespace')}/pods/{pod}"
        context = ssl.create_default_context(cafile=account.folder / "ca.crt")
        self._client = httpx2.AsyncClient(verify=context, timeout=_TIMEOUT_S, trust_env=False)
        self._told: int | None = None
        self._complained = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tell."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def aclose(self) -> None:
        """Tell no more; what was told goes with the pod."""
        await end(self._task)
        await self._client.aclose()

    async def _watch(self) -> None:
        while True:
            cost = _rough(self._runs())
            kept = cost == self._told or await self._tell(cost)
            await asyncio.sleep(self._period_s if kept else max(self._period_s, _PAUSE_S))

    async def _tell(self, cost: int) -> bool:
        """Whether Kubernetes took it."""
        try:
            answer = await self._client.patch(
                self._path,
                json={"metadata": {"annotations": {ANNOTATION: str(cost)}}},
                headers={
                    "authorization": f"Bearer {await asyncio.to_thread(self._account.read, 'token')}",
                    "content-type": "application/merge-patch+json",
                },
            )
            answer.raise_for_status()
        except (httpx2.HTTPError, OSError) as error:
            said = log.debug if self._complained else log.warning
            said("Kubernetes was not told what this pod costs: %s", _why(error))
            self._complained = True
            return False
        self._told, self._complained = cost, False
        return True


def _rough(runs: int) -> int:
    """0 for none, else the next power of two: few runs more or less are not worth a write."""
    return 1 << (runs - 1).bit_length() if runs > 0 else 0


def _why(error: Exception) -> str:
    if isinstance(error, httpx2.HTTPStatusError):
        hint = " (may the service account patch pods?)" if error.response.status_code in {401, 403} else ""
        return f"status {error.response.status_code}{hint}"
    return type(error).__name__
