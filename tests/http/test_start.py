"""What keeps a pod, or a command, from starting is told in one line that names it: no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from agentrt.cli import main
from agentrt.errors import SettingsError
from agentrt.http.auth import read_keys
from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer


def told(*args: str, **env: str) -> str:
    """What a command that must fail says."""
    ended = CliRunner().invoke(main, args, env={"AGENTRT_API_KEYS_SECRET": "s", **env})
    assert ended.exit_code == 1 and isinstance(ended.exception, SystemExit), ended.output
    return ended.output.strip()


@pytest.mark.parametrize("target", [":x", "x:", "x", ".x:y", "a..b:y", "a/b.py:y"])
def test_a_target_that_is_none(target: str, redis_server: RedisServer) -> None:
    said = told("serve", target, AGENTRT_REDIS_URL=redis_server.url)
    assert said == f"Error: {target!r} is not of the form MODULE:ATTR"


def test_a_file_of_keys_that_cannot_be_read(tmp_path: Path, redis_server: RedisServer) -> None:
    path = tmp_path / "keys"
    env = {"AGENTRT_REDIS_URL": redis_server.url, "AGENTRT_API_KEYS_FILE": str(path)}
    target = "tests.harness.agents:agents"
    path.write_bytes("kéy".encode("latin-1"))
    assert told("serve", target, **env) == f"Error: AGENTRT_API_KEYS_FILE: {path} is not UTF-8"
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        read_keys(str(tmp_path))


def test_a_file_of_keys_that_cannot_be_written() -> None:
    said = told("keys", "create", "--tenant", "t", "--file", "/no/dir/f")
    assert said == "Error: /no/dir/f cannot be written: No such file or directory"


@pytest.mark.parametrize(
    ("target", "env", "said"),
    [
        ("tests.harness.provider_agents:agents", {}, "model anthropic:claude-haiku-4-5: ANTHROPIC_API_KEY is not set"),
        ("tests.harness.agents:agents", {"AGENTRT_PRICES_FILE": "/no/dir/f"}, "/no/dir/f cannot be read"),
    ],
    ids=["key", "prices"],
)
def test_a_pod_that_cannot_start(redis_server: RedisServer, target: str, env: dict[str, str], said: str) -> None:
    pod = Pod(redis_server.url, name="not-to-be", target=target, env=env)
    with pytest.raises(RuntimeError):
        pod.start()
    log = pod.log.read_text()
    pod.stop()
    assert "this pod cannot start: " in log and said in log
    assert "Traceback" not in log
