"""locust in a cluster (`kubectl apply -k loadtest`): objects that Kubernetes takes, and that fit the code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.operate.manifests import check_invariants, check_schema, of_kind, parse, pods

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "loadtest"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
CODE = (FOLDER / "locustfile.py").read_text()


def manifests() -> list[dict[str, Any]]:
    return [one for name in KUSTOMIZATION["resources"] for one in parse((FOLDER / name).read_text())]


def test_objects_fit_their_schemas_and_each_other() -> None:
    found = manifests()
    assert all(check_schema(one) for one in found)
    check_invariants(found)


def test_the_master_waits_for_as_many_workers_as_there_are() -> None:
    (master,) = of_kind(manifests(), "Job")
    (workers,) = of_kind(manifests(), "Deployment")
    args = master["spec"]["template"]["spec"]["containers"][0]["args"]
    assert int(args[args.index("--expect-workers") + 1]) == workers["spec"]["replicas"]
    (service,) = of_kind(manifests(), "Service")
    directed = workers["spec"]["template"]["spec"]["containers"][0]["args"]
    assert directed[directed.index("--master-host") + 1] == service["metadata"]["name"]


def test_the_pods_have_all_of_the_code_and_say_only_what_it_reads() -> None:
    """And the image is the locust that `make load` has."""
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    modules = {f"{name}.py" for name in re.findall(r"^from loadtest\.(\w+) import", CODE, re.MULTILINE)}
    assert modules | {"locustfile.py", "thresholds.toml"} == set(generated["files"])
    (settings,) = of_kind(manifests(), "ConfigMap")
    told = {name for name in settings["data"] if name.startswith("LOAD_")}
    assert told and all(f'"{name}"' in CODE for name in (*told, "LOAD_KEY"))
    pinned = re.search(r"^locust==(\S+)", (FOLDER / "requirements.lock").read_text(), re.MULTILINE)
    assert pinned
    images = {container["image"] for _, _, spec in pods(manifests()) for container in spec["containers"]}
    assert images == {f"locustio/locust:{pinned[1]}"}


@pytest.mark.needs("kustomize")
def test_kustomize_builds() -> None:
    text = subprocess.run(["kustomize", "build", str(FOLDER)], capture_output=True, text=True, check=True).stdout
    found = parse(text)
    assert all(check_schema(one) for one in found)
    check_invariants(found)
    names = {one["metadata"]["name"] for one in of_kind(found, "ConfigMap")}
    for _, _, spec in pods(found):
        assert {volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume} <= names
