"""schemathesis: requests made from /openapi.json; no 5xx, and every answer as the document says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from session import URL, step

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"

with step("no 5xx, no answer that the document does not tell"):
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{URL}/openapi.json"]
    options = ["--checks", CHECKS, "--max-examples", "25", "--header", "Authorization: Bearer x", "--seed", "4711"]
    ended = subprocess.run([*command, *options, "--no-color"], capture_output=True, text=True, check=False)
    sys.stderr.write(ended.stdout + ended.stderr)
    assert ended.returncode == 0
