"""What dashboards are made of: panels, and the expressions that most of them ask."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Dashboard", "Panel", "highest", "quantile", "rate"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph: what it is called, what it means, its unit in Grafana's words, and (legend, expression) of each line.

    `@` in an expression stands for the labels that pick the deployment.
    """

    title: str
    text: str
    unit: str
    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard: its file's name, its title, its panels in rows of three."""

    name: str
    title: str
    panels: tuple[Panel, ...]


def rate(metric: str, by: str, selector: str = "") -> str:
    """How fast a counter grows, by labels."""
    inner = f"@,{selector}" if selector else "@"
    return f"sum by ({by}) (rate({metric}{{{inner}}}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str) -> str:
    """A quantile of a histogram, by a label."""
    return f"histogram_quantile({share}, sum by ({by}, le) (rate({metric}_bucket{{@}}[$__rate_interval])))"


def highest(metric: str) -> str:
    """A gauge that every pod shows alike."""
    return f"max({metric}{{@}})"
