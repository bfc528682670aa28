"""The names of metrics: where they are used, where they are explained, and where they come from."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"
RULES = ROOT / "deploy" / "prometheus-rules.yml"
OPERATIONS = ROOT / "docs" / "operations.md"

NAME = re.compile(r"\bpushbridge_[a-z_]+[a-z]")


def used() -> set[str]:
    """Those that the rules and the dashboard ask for."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return set(NAME.findall("\n".join([RULES.read_text(), *queries])))


def explained() -> set[str]:
    """Those in the table of docs/operations.md."""
    rows = [line for line in OPERATIONS.read_text().splitlines() if line.startswith("| `pushbridge_")]
    return {name for row in rows for name in NAME.findall(row.split("|")[1])}


def told(scrape: str) -> dict[str, str]:
    """The type of each metric by its name."""
    return dict(re.findall(r"^# TYPE (pushbridge_\w+) (\w+)$", scrape, re.MULTILINE))


def samples(kinds: dict[str, str]) -> set[str]:
    """What a query may name of these."""
    parts = ("_bucket", "_sum", "_count")
    return {name + part for name, kind in kinds.items() for part in (parts if kind == "histogram" else ("",))}
