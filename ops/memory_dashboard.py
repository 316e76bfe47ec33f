"""The dashboard of what is remembered: how far behind it is, what became of it, what it costs a turn."""

from __future__ import annotations

from ops.panels import Dashboard, Panel, highest, quantile, rate

__all__ = ["MEMORY"]

MEMORY = Dashboard(
    "memory",
    "agentrt / Memory",
    (
        Panel(
            "Lag of ingestion",
            "From a run until its turns are remembered, and from then until its facts are in; median and 95th "
            "percentile.",
            "s",
            (
                ("{{what}} p50", quantile(0.5, "agentrt_memory_lag_seconds", "what")),
                ("{{what}} p95", quantile(0.95, "agentrt_memory_lag_seconds", "what")),
            ),
        ),
        Panel(
            "Jobs that are late",
            "Jobs of the memory that are due, and those that were given up.",
            "short",
            (("late", highest("agentrt_memory_jobs_late")), ("given up", highest("agentrt_memory_jobs_buried"))),
        ),
        Panel(
            "Jobs",
            "Jobs of the memory, by kind and outcome.",
            "ops",
            (("{{kind}} {{outcome}}", rate("agentrt_memory_jobs_total", "kind, outcome")),),
        ),
        Panel(
            "Recall",
            "Time that turns spend on what they are given of the past, by agent; median and 99th percentile.",
            "s",
            (
                ("{{agent}} p50", quantile(0.5, "agentrt_memory_recall_seconds", "agent")),
                ("{{agent}} p99", quantile(0.99, "agentrt_memory_recall_seconds", "agent")),
            ),
        ),
        Panel(
            "Duration of a job",
            "Time that a job of the memory takes, its calls of models included, by kind; 95th percentile.",
            "s",
            (("{{kind}}", quantile(0.95, "agentrt_memory_job_seconds", "kind")),),
        ),
        Panel(
            "Facts",
            "What was drawn from messages: facts that are new, known ones that were said again, and why others were "
            "refused.",
            "ops",
            (("{{outcome}}", rate("agentrt_memory_facts_total", "outcome")),),
        ),
        Panel(
            "Messages without facts",
            "Messages from which no facts could be drawn: the extractor answered nonsense.",
            "ops",
            (("failed", rate("agentrt_memory_facts_total", "outcome", 'outcome="failed"')),),
        ),
        Panel(
            "Compaction",
            "What compaction took away, by kind.",
            "ops",
            (("{{kind}}", rate("agentrt_memory_compacted_total", "kind")),),
        ),
        Panel(
            "Compactions and erasures",
            "Jobs of these kinds, by outcome.",
            "ops",
            (
                (
                    "{{kind}} {{outcome}}",
                    rate("agentrt_memory_jobs_total", "kind, outcome", 'kind=~"compact|erase"'),
                ),
            ),
        ),
    ),
)
