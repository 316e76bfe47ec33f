"""`make checkov`: the policies of checkov over everything that the chart renders, and over the Dockerfile.

What fails must be listed below with a reason, and what is listed must fail somewhere: a list that is longer than needed
hides the next finding.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ops import chart

__all__ = ["SKIPS", "Finding", "judge"]

ROOT = Path(__file__).parents[1]
CHECKOV = ROOT / ".venv" / "checkov" / "bin" / "checkov"

Finding = tuple[str, str, str]
"""Check, resource, file."""

SKIPS: dict[str, tuple[str, str]] = {
    "CKV_K8S_43": (
        r".*",
        "The digest is the installer's to know: image.digest takes it. The built-in Redis is for trying out.",
    ),
    "CKV_K8S_15": (
        r".*",
        "A tag of ours never moves, and a pod that restarts while the registry is away must come back.",
    ),
    "CKV_K8S_11": (
        r".*",
        "A CPU limit stops a whole pod for parts of each 100 ms, and its leases run out meanwhile. Requests are set; "
        "`resources` takes a limit.",
    ),
    "CKV_K8S_35": (
        r"(Deployment|Pod)\..*",
        "The password is a part of Redis' URL, which Kubernetes puts together from the variable. API keys are files.",
    ),
    "CKV_K8S_8": (r"Pod\..*-test", "The pod of `helm test` runs one command and ends."),
    "CKV_K8S_9": (r"Pod\..*-test", "As above."),
    "CKV_K8S_38": (
        r"Deployment\..*",
        "Only with deletionCost.enabled, where the token is what it is for; without it no token is mounted.",
    ),
    "CKV_K8S_40": (r"StatefulSet\..*-redis", "Redis' own image has its files under 999."),
    "CKV_DOCKER_7": (
        r".*Dockerfile\.FROM",
        "It has a tag, in the default of BASE_IMAGE, which checkov does not look up.",
    ),
    "CKV2_K8S_6": (
        r"Pod\..*",
        "networkPolicy.enabled is off by default, since a chart does not know where Redis and the models are; the pod "
        "of `helm test` and the built-in Redis have none of their own.",
    ),
}
"""Check → (which resources, why). Resources are `Kind.namespace.name`."""


def judge(findings: list[Finding]) -> list[str]:
    """What is wrong: findings without a reason, and reasons without a finding."""
    wrong = [
        f"{check} on {resource} in {file}: no reason to skip it"
        for check, resource, file in findings
        if check not in SKIPS or not re.fullmatch(SKIPS[check][0], resource)
    ]
    found = {check for check, _, _ in findings}
    return wrong + [f"{check}: is skipped with a reason, and fails nowhere" for check in SKIPS if check not in found]


def _render(folder: Path) -> None:
    """Every combination of values in `ci/`, without what users add: that is theirs to judge."""
    for path in sorted((chart.CHART / "ci").glob("*-values.yaml")):
        name = path.name.removesuffix("-values.yaml")
        values = chart.values_file(name) | {"sidecars": [], "initContainers": [], "extraObjects": []}
        (folder / name).mkdir()
        for file, text in chart.render(values).items():
            (folder / name / file.replace("/", "-")).write_text(text, encoding="utf-8")


def _failed(*args: str) -> tuple[list[Finding], int]:
    """What fails, and how many checks passed. Raises `RuntimeError` when checkov does not say."""
    command = [str(CHECKOV), "--skip-download", "--output", "json", "--quiet", *args]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        reports: Any = json.loads(told.stdout)
    except json.JSONDecodeError as error:
        raise RuntimeError(f"checkov said nothing of use: {told.stdout[-500:]} {told.stderr[-500:]}") from error
    findings: list[Finding] = []
    passed = 0
    for report in reports if isinstance(reports, list) else [reports]:
        passed += report["summary"]["passed"] if "summary" in report else report["passed"]
        if report.get("summary", report)["parsing_errors"]:
            raise RuntimeError(f"checkov could not read: {report['results']['parsing_errors']}")
        failed = report.get("results", {}).get("failed_checks", [])
        findings += [(one["check_id"], one["resource"], one["file_path"].lstrip("/")) for one in failed]
    return findings, passed


def main() -> None:
    """Exit status 1 when something is wrong."""
    with tempfile.TemporaryDirectory(prefix="agentrt-policy-") as folder:
        _render(Path(folder))
        manifests, passed = _failed("--framework", "kubernetes", "--directory", folder)
    image, passed_image = _failed("--framework", "dockerfile", "--file", str(ROOT / "Dockerfile"))
    wrong = judge([*manifests, *image])
    print(f"{passed} checks of manifests and {passed_image} of the Dockerfile pass")
    print(f"{len(manifests) + len(image)} fail, of {len({check for check, _, _ in manifests + image})} kinds:")
    for check, (_, why) in SKIPS.items():
        print(f"  {check}: {why}")
    print(*wrong, sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
