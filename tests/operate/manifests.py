"""Rendered manifests as objects, and what must hold of any set of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from agentrt.settings import describe

CRDS = Path(os.environ.get("CRD_SCHEMAS") or Path(__file__).parents[3] / "shared" / "crds")
"""Schemas of custom resources, `<group>/<kind>_<version>.json`; not every clone has them."""
KUBERNETES = "1.33"
SETTINGS = {name for name, _, _ in describe()}
OTEL = {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"}
OTEL |= {"OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"}

Manifest = dict[str, Any]


def parse(text: str) -> list[Manifest]:
    """The objects in a text of YAML documents."""
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Those of one kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def check_schema(manifest: Manifest) -> bool:
    """Validate against Kubernetes' own schema or the CRD's. False: there is no schema of it here."""
    group, _, version = manifest["apiVersion"].rpartition("/")
    if not group.endswith((".sh", ".com", "gateway.networking.k8s.io")):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return True
    path = CRDS / group / f"{manifest['kind'].lower()}_{version}.json"
    if not path.is_file():
        return False
    schema = json.loads(path.read_text(encoding="utf-8"))
    # Not `jsonschema.validate`, which judges the schema too: some patterns are of Go's kind.
    jsonschema.validators.validator_for(schema)(schema).validate(manifest)
    return True


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """(name, metadata, spec) of every pod or pod template."""
    for manifest in manifests:
        if manifest["kind"] == "Pod":
            yield manifest["metadata"]["name"], manifest["metadata"], manifest["spec"]
        elif manifest["kind"] in {"Deployment", "StatefulSet", "Job"}:
            template = manifest["spec"]["template"]
            yield manifest["metadata"]["name"], template["metadata"], template["spec"]


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Whether a selector picks something with these labels."""
    return selector.items() <= labels.items()


def check_invariants(manifests: list[Manifest]) -> None:
    """What schemas do not say."""
    named = [
        (one["apiVersion"], one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in manifests
    ]
    assert len(set(named)) == len(named), f"two objects of one name: {named}"
    _check_selectors(manifests)
    _check_budgets(manifests)
    trusted = {subject["name"] for one in of_kind(manifests, "RoleBinding") for subject in one["subjects"]}
    for name, _, spec in pods(manifests):
        _check_pod(name, spec)
        needed = spec.get("serviceAccountName") in trusted
        assert spec["automountServiceAccountToken"] is needed, "a token only for those that have a right to use"
    for config in of_kind(manifests, "ConfigMap"):
        _check_names(config.get("data", {}))
    _check_references(manifests)


def _check_selectors(manifests: list[Manifest]) -> None:
    found = list(pods(manifests))
    for workload in manifests:
        if workload["kind"] in {"Deployment", "StatefulSet"}:
            selector = workload["spec"]["selector"]["matchLabels"]
            labels = workload["spec"]["template"]["metadata"]["labels"]
            assert matches(selector, labels)
            assert not {key for key in selector if "version" in key or "chart" in key}, "a selector can never change"
    for service in of_kind(manifests, "Service"):
        picked = [spec for _, metadata, spec in found if matches(service["spec"]["selector"], metadata["labels"])]
        assert len(picked) == 1, f"{service['metadata']['name']} selects {len(picked)} workloads"
        ports = {port["name"] for container in picked[0]["containers"] for port in container.get("ports", ())}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        for manifest in of_kind(manifests, kind):
            spec = manifest["spec"]
            selector = (spec.get("selector") or spec.get("podSelector"))["matchLabels"]
            assert sum(matches(selector, metadata["labels"]) for _, metadata, _ in found) == 1
    for monitor in of_kind(manifests, "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        services = [one for one in of_kind(manifests, "Service") if matches(selector, one["metadata"]["labels"])]
        assert len(services) == 1
        assert {end["port"] for end in monitor["spec"]["endpoints"]} <= {
            port["name"] for port in services[0]["spec"]["ports"]
        }


def _check_budgets(manifests: list[Manifest]) -> None:
    scalers = of_kind(manifests, "HorizontalPodAutoscaler") + of_kind(manifests, "ScaledObject")
    (deployment,) = of_kind(manifests, "Deployment")
    assert len(scalers) <= 1
    assert ("replicas" in deployment["spec"]) is not bool(scalers), "an autoscaler and `replicas` would fight"
    pods_min = deployment["spec"].get("replicas", 1)
    for scaler in scalers:
        spec = scaler["spec"]
        pods_min = spec.get("minReplicas", spec.get("minReplicaCount"))
        assert pods_min <= spec.get("maxReplicas", spec.get("maxReplicaCount"))
        assert spec["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] < pods_min


def _check_pod(name: str, spec: Manifest) -> None:
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True and security["runAsUser"] > 0, name
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    volumes = {volume["name"] for volume in spec.get("volumes", ())}
    for container in spec["containers"]:
        if "securityContext" not in container:
            continue  # a sidecar of the user's
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"] and container["resources"]["limits"]
        ports = {port["name"] for port in container.get("ports", ())}
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            for how in (container.get(probe) or {}).values():
                assert not isinstance(how, dict) or how["port"] in ports
        mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
        assert mounted <= volumes | {"data"}
        env = [variable["name"] for variable in container.get("env", ())]
        assert len(set(env)) == len(env)
        _check_names(dict.fromkeys(env, ""))


def _check_names(env: dict[str, str]) -> None:
    for variable in env:
        assert not variable.startswith("AGENTRT_") or variable in SETTINGS, f"{variable} is no setting"
        assert not variable.startswith("OTEL_") or variable in OTEL, variable


def _check_references(manifests: list[Manifest]) -> None:
    names = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    for _, _, spec in pods(manifests):
        account = spec.get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in names or account == "default"
        for container in spec["containers"]:
            for source in container.get("envFrom", ()):
                reference = source.get("configMapRef")
                assert reference is None or ("ConfigMap", reference["name"]) in names
    for binding in of_kind(manifests, "RoleBinding"):
        assert ("Role", binding["roleRef"]["name"]) in names
        assert all((subject["kind"], subject["name"]) in names for subject in binding["subjects"])
    for ingress in of_kind(manifests, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                assert ("Service", path["backend"]["service"]["name"]) in names
    for route in of_kind(manifests, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            assert all(("Service", backend["name"]) in names for backend in rule["backendRefs"])
    for scaled in of_kind(manifests, "ScaledObject"):
        for trigger in scaled["spec"]["triggers"]:
            reference = trigger.get("authenticationRef")
            assert reference is None or ("TriggerAuthentication", reference["name"]) in names
