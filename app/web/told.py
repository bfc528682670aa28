"""What the dispatchers say of themselves, as metrics.

Each dispatcher counts since it started, and has its own series: a sum over them would go down when one starts anew.
A figure that is not there, of an older or a newer dispatcher, is not told; its name is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from app.admin import figures
from app.store.rows import Health

BOTH = ("provider", "dispatcher")
GAUGES = {
    "queued": "Pushes in the memory of the dispatcher.",
    "inflight": "Pushes under way.",
}


def families(beats: Iterable[Health], now: int) -> Iterator[Metric]:
    """`now`: UNIX milliseconds. Only dispatchers that are alive count."""
    beats = list(beats)
    said = figures.said(beats, now)
    yield from _states(figures.providers(beats, now), now)
    yield from _counted(said)
    for key, documentation in GAUGES.items():
        gauge = GaugeMetricFamily(f"pushbridge_provider_{key}", documentation, labels=BOTH)
        for labels, each in _each(said):
            if _is_number(each.get(key)):
                gauge.add_metric(labels, each[key])
        yield gauge
    yield _answers(said)
    yield GaugeMetricFamily("pushbridge_dispatchers", "Dispatcher processes alive.", value=len(said))


def _states(providers: Mapping[str, figures.ProviderState], now: int) -> Iterator[Metric]:
    paused = GaugeMetricFamily("pushbridge_provider_paused", "1 while nothing is sent to it.", labels=["provider"])
    since = GaugeMetricFamily("pushbridge_provider_paused_seconds", "For how long, 0 if not.", labels=["provider"])
    for name, state in providers.items():
        is_paused = state.state in ("paused", "probing")
        paused.add_metric([name], is_paused)
        since.add_metric([name], max(0, now - state.paused_since) / 1000 if is_paused and state.paused_since else 0)
    yield from (paused, since)


def _counted(said: Mapping[str, dict[str, Any]]) -> Iterator[Metric]:
    planned = CounterMetricFamily("pushbridge_planned", "Pushes that were decided on.", labels=["dispatcher"])
    for owner, all_of_it in said.items():
        if _is_number(all_of_it.get("planned")):
            planned.add_metric([owner], all_of_it["planned"])
    reasons = CounterMetricFamily(
        "pushbridge_reasons", "Outcomes by provider and reason.", labels=["provider", "outcome", "reason", "dispatcher"]
    )
    refreshes = CounterMetricFamily("pushbridge_token_refreshes", "Access tokens made or fetched.", labels=BOTH)
    doubted = GaugeMetricFamily("pushbridge_provider_tokens_doubted", "1 while most tokens are refused.", labels=BOTH)
    for (name, owner), each in _each(said):
        for outcome, of_outcome in _dict(each.get("reasons")).items():
            for reason, count in _dict(of_outcome).items():
                if _is_number(count):
                    reasons.add_metric([name, outcome, reason, owner], count)
        if _is_number(each.get("token_refreshes")):
            refreshes.add_metric([name, owner], each["token_refreshes"])
        if isinstance(each.get("tokens_doubted"), bool):
            doubted.add_metric([name, owner], each["tokens_doubted"])
    yield from (planned, reasons, refreshes, doubted)


def _answers(said: Mapping[str, dict[str, Any]]) -> Metric:
    seconds = HistogramMetricFamily("pushbridge_provider_answer_seconds", "Time to an answer.", labels=BOTH)
    for labels, each in _each(said):
        answers = _dict(each.get("answers"))
        bounds, counts = answers.get("le", ()), answers.get("counts", ())
        if len(bounds) == len(counts) and _is_number(answers.get("count")):
            buckets = [(str(float(bound)), float(count)) for bound, count in zip(bounds, counts, strict=True)]
            seconds.add_metric(labels, [*buckets, ("+Inf", float(answers["count"]))], answers.get("sum"))
    return seconds


def _each(said: Mapping[str, dict[str, Any]]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """((provider, dispatcher), figures)."""
    for owner, all_of_it in said.items():
        for name, each in figures.by_provider(all_of_it).items():
            yield (name, owner), each


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
