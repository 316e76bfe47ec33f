"""The deletion cost: told when it changes, with the token of the moment; a pod without the right serves as well."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from agentrt.errors import SettingsError
from agentrt.runtime.deletion_cost import ANNOTATION, DeletionCost, ServiceAccount, _rough
from tests.harness.kubernetes import ApiServer
from tests.harness.pod import Pod

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as server:
        yield server


def cost(api: ApiServer, runs: list[int], period_s: float = 0.01) -> DeletionCost:
    """Of the pod `web-0`, which has as many runs as the list's last element says."""
    return DeletionCost(ServiceAccount.mounted(api.env, api.account), "web-0", lambda: runs[-1], period_s)


def test_a_pod_at_work_costs_more_than_an_idle_one(api: ApiServer, redis_url: str) -> None:
    """And one that has ended its work is as cheap as before."""
    entry = ("-m", "tests.harness.pod_in_kubernetes")
    target = "tests.harness.agents:agents"
    with Pod(redis_url, target=target, name="busy", env=api.env, entry=entry) as pod:
        api.until(lambda api: api.writes == [("busy", ANNOTATION, "0")])
        for _ in range(3):
            body = {"model": "slow", "input": "word " * 60, "background": True}
            httpx2.post(f"{pod.url}/v1/responses", json=body, timeout=20).raise_for_status()
        api.until(lambda api: api.cost("busy") == 4)
        api.until(lambda api: api.cost("busy") == 0)
    assert not api.refused


def test_few_runs_more_or_less_are_no_news() -> None:
    assert [_rough(runs) for runs in (0, 1, 2, 3, 4, 5, 100, 128)] == [0, 1, 2, 4, 4, 8, 128, 128]


async def test_it_tells_only_what_changed_and_with_the_token_of_the_moment(api: ApiServer) -> None:
    runs = [5]
    told = cost(api, runs)
    told.start()
    await asyncio.to_thread(api.until, lambda api: len(api.writes) == 1)
    api.turn_token("token-1")
    runs += [6, 7, 8]
    runs.append(9)
    await asyncio.to_thread(api.until, lambda api: len(api.writes) == 2)
    await told.aclose()
    assert [value for _, _, value in api.writes] == ["8", "16"] and not api.refused


async def test_a_refusal_is_said_once_and_costs_nothing_else(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agentrt.runtime.deletion_cost._PAUSE_S", 0.01)
    caplog.set_level(logging.WARNING, "agentrt")
    api.refuse = 403
    told = cost(api, [1])
    told.start()
    await asyncio.to_thread(api.until, lambda api: len(api.refused) >= 3)
    api.refuse = 0
    await asyncio.to_thread(api.until, lambda api: api.cost("web-0") == 1)
    await told.aclose()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "403" in line and "patch pods" in line and "token" not in line


async def test_a_server_of_another_authority_gets_no_token(api: ApiServer, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with ApiServer(other) as stranger:
        stranger.account.joinpath("ca.crt").write_bytes(api.account.joinpath("ca.crt").read_bytes())
        told = cost(stranger, [1])
        assert not await told._tell(1)
        await told.aclose()
    assert not stranger.writes and not stranger.refused


def test_without_a_service_account_the_pod_says_so_and_does_not_start(redis_url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no token, ca\.crt, namespace in"):
        ServiceAccount.mounted({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path)
    pod = Pod(redis_url, name="alone", env={"AGENTRT_DELETION_COST_S": "15"})
    with pytest.raises(RuntimeError, match="AGENTRT_DELETION_COST_S"):
        pod.start()
    pod.stop()


def test_an_ipv6_address_is_written_as_one(api: ApiServer) -> None:
    env = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    assert ServiceAccount.mounted(env, api.account).url == "https://[fd00::1]:6443"
