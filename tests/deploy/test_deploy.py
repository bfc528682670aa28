"""What deploy/ ships, held against its own tools where they are installed; `.ci/deploy-checks` installs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from app.intake import BULK_LANE, NOTIFY_LANE
from tests.deploy.names import DASHBOARD, OPERATIONS, ROOT, RULES, explained, used

UNITS = sorted((ROOT / "deploy" / "systemd").iterdir())


def run(*command: str | Path) -> None:
    """Skips where the tool is not installed, unless PUSHBRIDGE_DEPLOY_TOOLS says that it is."""
    if shutil.which(command[0]) is None and not os.environ.get("PUSHBRIDGE_DEPLOY_TOOLS"):
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "", done.stderr


def rules() -> Sequence[dict[str, str]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: Sequence[dict[str, str]] = group["rules"]
    return found


def test_the_rules_are_rules() -> None:
    run("promtool", "check", "rules", RULES)


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    run("promtool", "test", "rules", Path(__file__).with_name("rules.yml"))


def test_each_alert_is_tried_both_ways_and_has_a_chapter() -> None:
    tried = yaml.safe_load(Path(__file__).with_name("rules.yml").read_text())["tests"]
    cases = [(each["alertname"], bool(each["exp_alerts"])) for test in tried for each in test["alert_rule_test"]]
    chapters = re.findall(r"^### (\w+)", OPERATIONS.read_text(), re.MULTILINE)
    names = [rule["alert"] for rule in rules()]
    for name in names:
        assert {fires for alert, fires in cases if alert == name} == {True, False}, name
    assert names == [chapter for chapter in chapters if chapter.startswith("Pushbridge")]


def test_what_is_old_by_design_pages_nobody() -> None:
    (rule,) = (rule for rule in rules() if rule["alert"] == "PushbridgeQueueOld")
    (lanes,) = re.findall(r'lane!~"([^"]*)"', rule["expr"])
    assert set(lanes.split("|")) == {BULK_LANE, NOTIFY_LANE}


def test_what_is_used_is_explained() -> None:
    assert used()
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used()}
    assert families - explained() == set()


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        squares = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & squares, panel["title"]
        assert all(x < 24 for x, _ in squares), panel["title"]
        taken |= squares
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units(unit: Path, tmp_path: Path) -> None:
    here = tmp_path / unit.name
    here.write_text(unit.read_text().replace("/opt/pushbridge", str(ROOT)))
    run("systemd-analyze", "verify", here)
    run("systemd-analyze", "security", "--offline=true", "--threshold=25", here)
