"""What Prometheus is told, summed over all processes of the service.

The processes share files in the folder that PROMETHEUS_MULTIPROC_DIR names; it must be set before this is imported.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess

WEBHOOKS = Counter("pushbridge_webhooks", "Webhook calls by event and status.", ["event", "status"])
WEBHOOK_SECONDS = Histogram(
    "pushbridge_webhook_seconds",
    "Time to answer a webhook.",
    ["event"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
BAD_ELEMENTS = Counter("pushbridge_bad_elements", "Elements of webhook bodies that were passed over.", ["event"])
LOST_LISTS = Counter("pushbridge_lost_lists", "Recipient lists that WuKongIM cut short.")
DUPLICATES = Counter("pushbridge_duplicates", "Recipients of repeats who had an outcome already.")
NOTIFIED = Counter("pushbridge_notify_messages", "Messages of msg.notify that were held against msg.offline.")
RESCUED = Counter("pushbridge_rescued", "Recipients whom msg.offline never named, and who are pushed all the same.")
LEFT_OUT = Counter(
    "pushbridge_rescue_left_out", "Messages of msg.notify that nobody is pushed for, by why.", ["reason"]
)
OUTCOMES = Counter("pushbridge_outcomes", "Outcomes by provider.", ["provider", "outcome"])


def exposition(extra: CollectorRegistry) -> bytes:
    """The text for a scrape: the counters of all processes, and what `extra` collects now."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry) + generate_latest(extra)
