"""Alerts on their real causes: seen as firing in a real Alertmanager, told by a real Prometheus, with `for` made short.

`make alerts` plays all causes; here are those that cost little. What `for` and thresholds are worth beside the cause is
in test_alerts.
"""

from __future__ import annotations

import subprocess

import pytest

from tests.operate.causes.play import CAUSES, UNSEEN, play_all
from tests.operate.causes.stage import ROOT, Watch
from tests.operate.test_alerts import ALERTS

FEW = ("redis-stopped", "memory-reached", "eviction", "effect-in-doubt", "queue-stuck", "dead-letter", "pool-exhausted")


def test_every_alert_has_a_cause_or_a_reason() -> None:
    played = [alert for cause in CAUSES.values() for alert in cause.alerts]
    assert {*played, *UNSEEN} == ALERTS.keys() and not UNSEEN.keys() & set(played)


@pytest.mark.needs("prometheus")
@pytest.mark.needs("prometheus-alertmanager")
@pytest.mark.timeout(600)
def test_alerts_fire_on_their_causes_and_not_before_and_end_with_them() -> None:
    with Watch(by=60.0) as watch:
        for result in play_all([CAUSES[name] for name in FEW], watch, at_once=3):
            assert not result.error, (result.cause.name, result.error)
            assert not result.before, (result.cause.name, result.before)
            assert result.fired.keys() == set(result.cause.alerts)


@pytest.mark.needs("amtool")
def test_amtool_takes_the_example_of_a_configuration() -> None:
    command = ["amtool", "check-config", str(ROOT / "deploy" / "alertmanager.yml")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def test_the_example_names_real_alerts() -> None:
    text = (ROOT / "deploy" / "alertmanager.yml").read_text()
    for alert in ALERTS:
        text = text.replace(f'"{alert}"', "")
    assert 'alertname = "' not in text
