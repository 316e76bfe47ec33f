"""Settings: read once from the environment, and every fault names its variable."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from agentrt.errors import SettingsError
from agentrt.settings import Settings, describe

WHOLE = [field for field in dataclasses.fields(Settings) if field.type == "int"]


def test_without_anything_the_defaults_hold() -> None:
    settings = Settings.from_env({})
    for field in dataclasses.fields(Settings):
        if field.name != "pod":
            assert getattr(settings, field.name) == field.default
    assert settings.pod.endswith(f"-{os.getpid()}")


def test_every_setting_can_be_set() -> None:
    env = {"AGENTRT_POD": "p", "AGENTRT_MAX_RUNS": "7", "AGENTRT_REDIS_URL": "redis://r:1/2", "AGENTRT_AUTH": "off"}
    settings = Settings.from_env(env)
    assert (settings.pod, settings.max_runs, settings.redis_url, settings.auth) == ("p", 7, "redis://r:1/2", "off")


def test_an_empty_variable_is_an_unset_one() -> None:
    assert Settings.from_env({"AGENTRT_MAX_RUNS": "", "AGENTRT_REDIS_URL": ""}).max_runs == 256


@pytest.mark.parametrize("field", WHOLE, ids=lambda field: field.name)
def test_whole_numbers_have_a_least_value(field: dataclasses.Field[int]) -> None:
    name, low = f"AGENTRT_{field.name.upper()}", field.metadata["low"]
    assert getattr(Settings.from_env({name: str(low)}), field.name) == low
    with pytest.raises(SettingsError, match=rf"{name} must be at least {low}, not {low - 1}"):
        Settings.from_env({name: str(low - 1)})
    for wrong in ("many", "1.5", "1e3", "0x10", "10s"):
        with pytest.raises(SettingsError, match=rf"{name} must be a whole number, not '{wrong}'"):
            Settings.from_env({name: wrong})


def test_keys_of_providers_go_by_their_own_names_too() -> None:
    assert Settings.from_env({"OPENAI_API_KEY": "theirs"}).openai_api_key == "theirs"
    assert Settings.from_env({"ANTHROPIC_BASE_URL": "http://x"}).anthropic_base_url == "http://x"
    both = {"OPENAI_API_KEY": "theirs", "AGENTRT_OPENAI_API_KEY": "ours"}
    assert Settings.from_env(both).openai_api_key == "ours"
    assert Settings.from_env({"REDIS_URL": "redis://elsewhere"}).redis_url == "redis://127.0.0.1:6379/0"


@pytest.mark.parametrize("wrong", ["On", "no", "true"])
def test_auth_is_on_or_off(wrong: str) -> None:
    with pytest.raises(SettingsError, match="AGENTRT_AUTH"):
        Settings.from_env({"AGENTRT_AUTH": wrong})


def test_a_file_of_keys_must_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    for path in (missing, tmp_path):
        with pytest.raises(SettingsError, match="AGENTRT_API_KEYS_FILE"):
            Settings.from_env({"AGENTRT_API_KEYS_FILE": str(path)})
    missing.touch()
    assert Settings.from_env({"AGENTRT_API_KEYS_FILE": str(missing)}).api_keys_file == str(missing)


def test_a_log_level_is_one_of_four() -> None:
    with pytest.raises(SettingsError, match="AGENTRT_LOG_LEVEL"):
        Settings.from_env({"AGENTRT_LOG_LEVEL": "chatty"})


def test_describe_lists_every_setting_once() -> None:
    listed = describe()
    assert [name for name, _, _ in listed] == [f"AGENTRT_{f.name.upper()}" for f in dataclasses.fields(Settings)]
    assert all(text for _, _, text in listed)
    assert ("AGENTRT_LEASE_MS", "10000", "how long an owner is believed to live without a sign") in listed


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings.from_env({}).max_runs = 5  # type: ignore[misc]


def test_lock_urls_are_an_odd_list() -> None:
    """None: locks are on the state Redis. The settings hold the list as it was given."""
    assert Settings.from_env({}).lock_urls == ()
    assert Settings.from_env({"AGENTRT_LOCK_REDIS_URLS": " , "}).lock_urls == ()
    three = Settings.from_env({"AGENTRT_LOCK_REDIS_URLS": "redis://a, redis://b,redis://c,"})
    assert three.lock_urls == ("redis://a", "redis://b", "redis://c")
    assert Settings.from_env({"AGENTRT_LOCK_REDIS_URLS": "redis://a"}).lock_urls == ("redis://a",)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [("redis://a,redis://b", "odd number of Redis, not 2"), ("redis://a,redis://b,redis://a", "named twice")],
)
def test_a_list_of_lock_urls_without_a_majority(wrong: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=f"AGENTRT_LOCK_REDIS_URLS: .*{complaint}"):
        Settings.from_env({"AGENTRT_LOCK_REDIS_URLS": wrong})
