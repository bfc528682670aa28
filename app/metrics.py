"""What Prometheus is told, summed over all processes of the service.

The processes share files in the folder that PROMETHEUS_MULTIPROC_DIR names; it must be set before this is imported.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess

from app import counters

WEBHOOKS = Counter("pushbridge_webhooks", "Webhook calls by event and status.", ["event", "status"])
WEBHOOK_SECONDS = Histogram(
    "pushbridge_webhook_seconds",
    "Time to answer a webhook.",
    ["event"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
ELEMENTS = Counter("pushbridge_elements", "Elements of webhook calls that were answered 200.", ["event"])
BAD_ELEMENTS = Counter("pushbridge_bad_elements", "Elements of webhook bodies that were passed over.", ["event"])
LOST_LISTS = Counter("pushbridge_lost_lists", "Recipient lists that WuKongIM cut short.")
DUPLICATES = Counter("pushbridge_duplicates", "Recipients of repeats who had an outcome already.")
NOTIFIED = Counter("pushbridge_notify_messages", "Messages of msg.notify that were held against msg.offline.")
RESCUED = Counter("pushbridge_rescued", "Recipients whom msg.offline never named, and who are pushed all the same.")
LEFT_OUT = Counter(
    "pushbridge_rescue_left_out", "Messages of msg.notify that nobody is pushed for, by why.", ["reason"]
)
OUTCOMES = Counter("pushbridge_outcomes", "Outcomes by provider.", ["provider", "outcome"])
STORE_SECONDS = Histogram(
    "pushbridge_store_seconds",
    "Time of write transactions, with the wait for other writers, by kind of process.",
    ["process"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
STORE_FAILURES = Counter("pushbridge_store_failures", "Write transactions that failed.", ["process"])


def writes(process: str) -> Callable[[float | None], None]:
    """What a Database in a process of this kind, "web" or "dispatcher", reports its write transactions to."""
    seconds, failures = STORE_SECONDS.labels(process), STORE_FAILURES.labels(process)

    def observe(took: float | None) -> None:
        if took is None:
            failures.inc()
        else:
            seconds.observe(took)

    return observe


RELAYED = Counter("pushbridge_relayed", "Events that a relay target took.", ["target", "event"])
RELAY_FAILURES = Counter("pushbridge_relay_failures", "Attempts that a target did not take.", ["target", "event"])
RELAY_DROPPED = Counter("pushbridge_relay_dropped", "Events given up for a target.", ["target", "event", "reason"])


def exposition(extra: CollectorRegistry) -> bytes:
    """The text for a scrape: the counters of all processes, and what `extra` collects now."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    with counters.reading():
        counted = generate_latest(registry)
    return counted + generate_latest(extra)
