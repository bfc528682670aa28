"""Requests captured from real WuKongIM servers, replayed in their order."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import events
from app.demo.standin import StandinProcess
from tests.e2e.service import Service, apns_token, until

CAPTURED = Path(__file__).resolve().parents[1] / "fixtures" / "wukongim"
HOLD_MS = 3_000
"""The default hold: a captured pause longer than this settles what is held."""
PHONES = 2_000
"""Users of one file who have a phone; the list of sixteen thousand has no need of more."""


USUAL = {"v2": {"sent": 1}, "v3": {"sent": 1, "skipped sender": 1}}
"""One message to one offline user. v3 names the sender too, who has no session when the REST API sends."""

UNUSUAL = {
    "v2": {
        "smoke": {"sent": 4},
        # v2 never tells that this uid (one in sixteen here) has left: what `pushbridge check` warns of.
        "1i-uid-unicode": {"suppressed online": 1},
        "2-expire": {"skipped expired": 1},
        "2-sync-once": {"skipped sync_once": 1},
        "2-sync-once-no-persist": {"skipped sync_once": 1},
        "5-channel-type-10": {"sent": 2},
        "5-group-5-no-persist": {"sent": 5},
        "5-group-5-offline-sender-offline": {"sent": 5},
        "5-group-5-offline-sender-online-client": {"sent": 5},
        # The member on the web is named and in peace; the one on a phone is not named.
        "5-group-5-one-app-one-web-online": {"sent": 3, "suppressed online": 1},
        "5-group-5-sync-once": {"skipped sync_once": 5},
        "5-group-600-offline-sender-offline": {"sent": 600},
        "5-group-600-offline-sender-online-client": {"sent": 600},
        "5-group-600-one-app-one-web-online": {"sent": 598, "suppressed online": 1},
        "5-group-nonmember-sender": {"sent": 6},
        "5-group-system-sender": {"sent": 6},
        # Cut short by v2 after 16,897 uids, which are used; of the smaller lists it sends nothing that can be read.
        "5z-gzip4-group-20000": {"sent": 1363, "skipped no_device": 15534},
        "6-notify-burst-250-one-person-channel": {"sent": 250},
        "6-notify-trickle-20-at-50ms": {"sent": 20},
        "7a-cmd-person-sync-once-cmd-payload": {"skipped sync_once": 1},
        "7b-cmd-call-invite": {"skipped sync_once": 1},
        "7c-cmd-subscribers-persist": {"skipped sync_once": 3},
        "7d-cmd-subscribers-no-persist": {"skipped sync_once": 3},
        "7e-cmd-subscribers-empty-from": {"skipped sync_once": 1},
        "7f-cmd-channel-name-direct": {"sent": 5},
        "7h-sendbatch": {"sent": 2},
    },
    "v3": {
        "smoke": {"sent": 4, "skipped sender": 4},
        **{
            name: {"sent": 1, "skipped sender": 2}
            for name in (
                "1i-uid-emoji",
                "1i-uid-html",
                "1i-uid-long255",
                "1i-uid-numeric-dashes",
                "1i-uid-space",
                "1i-uid-unicode",
                "1i-uid-uuid",
            )
        },
        "2-expire": {"skipped expired": 2},
        # The only one named is the sender: the receiver is online.
        **{
            name: {"skipped sender": 1}
            for name in (
                "2-to-self",
                "3a-receiver-online-web-only",
                "3b-receiver-online-app",
                "3c-receiver-online-app-slave-level0",
                "3d-receiver-online-web-master-level1",
            )
        },
        "5-group-5-offline-sender-offline": {"sent": 5, "skipped sender": 1},
        "5-group-5-offline-sender-online-client": {"sent": 5},
        "5-group-5-one-app-one-web-online": {"sent": 3},
        # 512 in a gzip list, the rest in a plain one.
        "5-group-600-offline-sender-offline": {"sent": 600, "skipped sender": 1},
        "5-group-600-offline-sender-online-client": {"sent": 600},
        "5-group-600-one-app-one-web-online": {"sent": 598},
        "6-notify-burst-250-one-person-channel": {"sent": 8, "skipped sender": 8},
        "6-notify-trickle-20-at-50ms": {"sent": 20, "skipped sender": 20},
    },
}


def captured(line: str) -> list[dict[str, Any]]:
    return [json.loads(row) for row in (CAPTURED / f"{line}.jsonl").read_text().splitlines()]


def recipients(rows: list[dict[str, Any]]) -> list[str]:
    uids: dict[str, None] = {}
    for row in rows:
        if "msg.offline" in row["query"]:
            uids.update(dict.fromkeys(events.offline(row["body"].encode())[1].uids))
    return list(uids)


def replay(service: Service, rows: list[dict[str, Any]]) -> None:
    before = 0
    for row in rows:
        if row["at_ms"] - before > HOLD_MS:
            until(service.is_idle, "the hold is over")
        before = row["at_ms"]
        headers = {"Authorization": row["headers"]["Authorization"]} if "headers" in row else {}
        status, answer = service.request(
            "POST",
            f"{row['path']}?{row['query']}",
            row["body"].encode(),
            {"Content-Type": "application/json", **headers},
        )
        assert (status, answer) == (200, b""), (row["scenario"], status, answer)


def by_scenario(service: Service, rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """What became of the recipients of each scenario's messages, a phrase and how many."""
    scenario_of = {}
    for row in rows:
        if "msg.offline" in row["query"]:
            scenario_of.setdefault(str(json.loads(row["body"])["message_id"]), row["scenario"])
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in service.records():
        word = f"{record['outcome']} {record['reason']}".strip()
        found[scenario_of[record["message_id"]]][word] += 1
    return {scenario: dict(counts) for scenario, counts in found.items()}


@pytest.mark.parametrize("line", ["v2", "v3"])
def test_captured_requests_end_in_what_their_scenarios_expect(
    start: Callable[..., Service], standin: StandinProcess, line: str
) -> None:
    service = start(presence={"hold": "500ms"}, rescue={"channels": "none"})
    rows = captured(line)
    uids = recipients(rows)[:PHONES]
    service.register_many(
        [
            {"uid": uid, "device_id": "phone", "provider": "ios", "token": apns_token(0x60_0000 + n)}
            for n, uid in enumerate(uids)
        ]
    )
    replay(service, rows)
    until(service.is_idle, "nothing waits any more", 60)

    expected = {**dict.fromkeys(scenarios_with_recipients(rows), USUAL[line]), **UNUSUAL[line]}
    assert by_scenario(service, rows) == expected
    sent = [(dict(r["headers"])["apns-collapse-id"], r["device"]) for r in standin.requests(server="apns")]
    assert len(sent) == len(set(sent)), "a message was pushed twice to one phone"


def scenarios_with_recipients(rows: list[dict[str, Any]]) -> set[str]:
    return {
        row["scenario"]
        for row in rows
        if "msg.offline" in row["query"] and events.offline(row["body"].encode())[1].uids
    }
