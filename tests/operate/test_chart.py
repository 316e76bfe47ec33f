"""The chart: every combination of values in `ci/` gives objects that Kubernetes takes and that fit together."""

from __future__ import annotations

import subprocess
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from ops import chart
from ops.write import outdated

from agentrt.cli import main
from tests.operate.manifests import CRDS, check_invariants, check_schema, matches, of_kind, parse, pods

helm = pytest.importorskip("helm_python", reason="helm-python-sdk has no wheel for this platform")

CI = sorted(path.name.removesuffix("-values.yaml") for path in (chart.CHART / "ci").glob("*-values.yaml"))
LEAST: dict[str, Any] = {"auth": {"enabled": False}, "redis": {"host": "redis.example.com"}}


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """All objects of the chart."""
    return [one for text in chart.render(values).values() for one in parse(text)]


@pytest.mark.parametrize("name", CI)
def test_objects_fit_their_schemas_and_each_other(name: str) -> None:
    manifests = rendered(chart.values_file(name))
    unknown = {manifest["kind"] for manifest in manifests if not check_schema(manifest)}
    assert not unknown or unknown == {"HTTPRoute"} or not CRDS.is_dir(), f"no schema for {unknown}"
    check_invariants(manifests)


@pytest.mark.parametrize("name", CI)
def test_lint_is_content(name: str) -> None:
    report = helm.lint(str(chart.CHART), chart.values_file(name), strict=True, kube_version="v1.33.0")
    assert not report["errors"], report
    assert not [message for message in report["messages"] if message["severity"] > 1]


@pytest.mark.needs("helm")
@pytest.mark.parametrize("name", CI)
def test_both_implementations_of_helm_agree(name: str) -> None:
    values = chart.CHART / "ci" / f"{name}-values.yaml"
    command = ["helm", "template", "agentrt", str(chart.CHART), "--namespace", "agentrt", "--values", str(values)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def by_name(manifests: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
        return {(one["kind"], one["metadata"]["name"]): one for one in manifests}

    assert by_name(parse(text)) == by_name(rendered(chart.values_file(name)))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"auth": {"enabled": False}}, "say where Redis is"),
        ({"redis": {"host": "redis"}}, "auth.existingSecret is empty"),
        ({**LEAST, "redis": {"mode": "sentinel"}}, "redis.hosts"),
        ({**LEAST, "redis": {"host": "redis", "passwordKey": "password"}}, "redis.existingSecret"),
        ({**LEAST, "autoscaling": {"hpa": {"enabled": True}, "keda": {"enabled": True}}}, "two autoscalers"),
        ({**LEAST, "drain": {"terminationGracePeriodSeconds": 10}}, "leave in good order"),
        ({**LEAST, "podDisruptionBudget": {"maxUnavailable": 2}}, "maxUnavailable"),
        ({**LEAST, "locks": {"redisUrls": ["redis://a", "redis://b"]}}, "odd number"),
        ({**LEAST, "replica": 3}, "replica"),
        ({**LEAST, "deletionCost": {"enabled": True}, "serviceAccount": {"create": False}}, "everybody's"),
        ({**LEAST, "preflight": "maybe"}, "preflight"),
        ({**LEAST, "config": {"MAX_RUNS": "1"}}, "MAX_RUNS"),
    ],
)
def test_values_that_cannot_work_are_refused_and_named(values: dict[str, Any], told: str) -> None:
    with pytest.raises(helm.HelmError, match=told):
        chart.render(values)


def test_a_changed_setting_restarts_the_pods() -> None:
    def checksum(values: dict[str, Any]) -> str:
        (deployment,) = of_kind(rendered(values), "Deployment")
        return str(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    assert checksum(LEAST) == checksum(LEAST)
    assert checksum(LEAST) != checksum({**LEAST, "config": {"AGENTRT_MAX_RUNS": "8"}})


def test_the_grace_period_covers_the_drain() -> None:
    for name in CI:
        values = chart.values_file(name)
        (deployment,) = of_kind(rendered(values), "Deployment")
        drain = {**yaml.safe_load((chart.CHART / "values.yaml").read_text())["drain"], **values.get("drain", {})}
        least = (
            drain["preStopSeconds"] + drain["seconds"] + drain["runsSeconds"] + 12
        )  # a second to ask, and an answer that is not out by then is cut
        assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= least


def test_the_pod_of_helm_test_asks_the_service_and_the_image_knows_its_command() -> None:
    for name in CI:
        manifests = rendered(chart.values_file(name))
        (test,) = of_kind(manifests, "Pod")
        (service,) = of_kind(manifests, "Service")[:1] if name != "builtin" else of_kind(manifests, "Service")[1:]
        (container,) = test["spec"]["containers"]
        url = f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
        assert container["args"] == ["doctor", f"--url={url}"]
        params = {option for one in main.commands["doctor"].params for option in one.opts}
        assert "--url" in params
        (policy, *_) = of_kind(manifests, "NetworkPolicy") or [None]
        sources = policy["spec"]["ingress"][0].get("from") if policy else None
        if sources is not None:
            picked = [one["podSelector"]["matchLabels"] for one in sources if "podSelector" in one]
            assert any(matches(labels, test["metadata"]["labels"]) for labels in picked), "it is let in"


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://collector.monitoring:4318", 4318),
        ("https://otlp.example.com/v1", 443),
        ("http://[::1]", 80),
        ("", None),
    ],
)
def test_traces_may_leave_under_a_network_policy(endpoint: str, port: int | None) -> None:
    def out(values: dict[str, Any]) -> Counter[int]:
        (policy,) = of_kind(rendered({**LEAST, "networkPolicy": {"enabled": True}, **values}), "NetworkPolicy")
        return Counter(one["port"] for rule in policy["spec"]["egress"] for one in rule["ports"])

    assert out({"otel": {"endpoint": endpoint}}) - out({}) == Counter([port] if port else [])


def test_no_secret_is_in_the_objects() -> None:
    """Credentials come from Secrets that the chart does not make; a URL bears only the name of a variable."""
    for name in CI:
        manifests = rendered(chart.values_file(name))
        assert not of_kind(manifests, "Secret")
        for _, _, spec in pods(manifests):
            for container in spec["containers"]:
                for variable in container.get("env", ()):
                    secret = "value" in variable and ("PASSWORD" in variable["name"] or "SECRET" in variable["name"])
                    assert not secret, variable


def test_what_is_written_from_one_source_is_up_to_date() -> None:
    """The chart's table and schema, k8s/, the dashboards. To renew them: `make k8s`."""
    assert outdated() == []


def test_every_value_has_a_comment() -> None:
    documented = {value.path for value in chart.read_values()}
    defaults = yaml.safe_load((chart.CHART / "values.yaml").read_text())

    def check(value: Any, path: str) -> None:
        if path not in documented:
            assert isinstance(value, dict) and value, f"{path} has no comment"
            for name, inner in value.items():
                check(inner, f"{path}.{name}")

    for name, value in defaults.items():
        check(value, name)


def test_the_chart_has_the_versions_of_the_package() -> None:

    told = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert told["appVersion"] == version("agentrt")


@pytest.mark.needs("kustomize")
@pytest.mark.parametrize("folder", ["base", "prod"])
def test_kustomize_builds(folder: str) -> None:
    path = Path(__file__).parents[2] / "k8s" / folder
    text = subprocess.run(["kustomize", "build", str(path)], capture_output=True, text=True, check=True).stdout
    manifests = parse(text)
    for manifest in manifests:
        check_schema(manifest)
    check_invariants(manifests)
    if folder == "prod":
        (scaler,) = of_kind(manifests, "HorizontalPodAutoscaler")
        assert scaler["spec"]["minReplicas"] == 4


def test_the_rendered_objects_fit_without_kustomize() -> None:
    base = Path(__file__).parents[2] / "k8s" / "base"
    listed = yaml.safe_load((base / "kustomization.yaml").read_text())["resources"]
    manifests = [one for name in listed for one in parse((base / name).read_text())]
    check_invariants(manifests)
    assert not [one for one in manifests if "helm.sh/chart" in one["metadata"]["labels"]]
