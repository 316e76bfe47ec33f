"""A chat completion whose pod is killed: asked for again under its key, it is the same run, with one effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2

from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer
from tests.http.conftest import NO_TLS
from tests.http.wire import eventually, rows

KEY = {"Idempotency-Key": "chat-death"}
ASK: dict[str, Any] = {"model": "teller", "messages": [{"role": "user", "content": "60"}]}


async def test_a_chat_goes_on_elsewhere_under_its_key(tmp_path: Path) -> None:
    sink = tmp_path / "demo.db"
    env = {"AGENTRT_DEMO_DB": str(sink)}
    target = "tests.harness.agents:agents"
    with (
        RedisServer() as redis,
        Pod(redis.url, name="dies", target=target, env=env) as dies,
        Pod(redis.url, name="lives", target=target, env=env) as lives,
    ):
        async with (
            httpx2.AsyncClient(base_url=dies.url, timeout=60, verify=NO_TLS) as first,
            httpx2.AsyncClient(base_url=lives.url, timeout=60, verify=NO_TLS) as second,
        ):
            seen = ""
            try:
                async with first.stream(
                    "POST", "/v1/chat/completions", json={**ASK, "stream": True}, headers=KEY
                ) as one:
                    async for line in one.aiter_lines():
                        seen += line
                        if "w5 " in line:
                            dies.kill()
            except httpx2.HTTPError:
                pass
            assert "w5 " in seen
            assert "[DONE]" not in seen

            async def answered() -> bool:
                nonlocal again
                again = await second.post("/v1/chat/completions", json=ASK, headers=KEY)
                return again.status_code == 200

            again = httpx2.Response(0)
            await eventually(answered, 60)
        made = again.json()
        assert made["id"] in seen
        assert made["choices"][0]["message"]["content"].split() == [f"w{number}" for number in range(60)]
        assert len(rows(sink, "")) == 1
