"""schemathesis makes requests from `/openapi.json`, good ones and bad ones: no 5xx, no answer that it does not tell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.pod import Pod
from tests.harness.redis_server import RedisServer

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)


@pytest.mark.timeout(120)
def test_nothing_that_the_document_does_not_tell(redis_server: RedisServer, tmp_path: Path) -> None:
    env = {"AGENTRT_DEMO_DB": str(tmp_path / "demo.db"), "AGENTRT_WAIT_MS": "200"}
    with Pod(redis_server.url, name="fuzzed", target="tests.harness.agents:agents", env=env) as pod:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{pod.url}/openapi.json", "--no-color"]
        phases = ["--phases", "examples,coverage,fuzzing", "--no-shrink"]
        options = [
            "--checks",
            ",".join(CHECKS),
            "--max-examples",
            "8",
            "--max-time",
            "15",
            "--seed",
            os.environ.get("AGENTRT_SEED", "1"),
            "--header",
            "Authorization: Bearer x",
        ]
        ended = subprocess.run([*command, *phases, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert pod.ready()
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
