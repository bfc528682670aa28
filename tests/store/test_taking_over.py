"""What a dispatcher left behind that comes back under another name, or not at all."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection

from app.model import Outcome
from app.store import deliveries, inbox
from tests.store.kit import ME, NOW, OTHER, claim, put, stored, waiting

LEASE = 1_000


@pytest.mark.parametrize("provider", ["ios", ""])
def test_a_push_of_the_dead_is_known_to_be_due_when_its_lease_ends(db: Connection, provider: str) -> None:
    """The others look here before they claim: a row that is not named is never taken over."""
    outcome = Outcome.RETRYING if provider else Outcome.HELD
    stored(db, waiting("u1", provider, provider=provider, outcome=outcome))
    deliveries.claim_due(db, provider, 0, 10, OTHER, NOW, LEASE)
    assert deliveries.next_due(db, [provider], ME) == NOW + LEASE
    assert deliveries.next_due(db, [provider], OTHER) is None
    (row,) = deliveries.claim_due(db, provider, 0, 10, ME, NOW + LEASE, LEASE)
    assert row.uid == "u1"
    assert deliveries.next_due(db, [provider], ME) is None


def test_own_claims_do_not_hide_what_is_free(db: Connection) -> None:
    stored(db, waiting("mine"), waiting("free", due_at=NOW + 5 * LEASE))
    deliveries.claim_due(db, "ios", 0, 10, ME, NOW, LEASE)
    assert deliveries.next_due(db, ["ios"], ME) == NOW + 5 * LEASE


def test_a_call_of_the_dead_is_known_as_work_when_its_lease_ends(db: Connection) -> None:
    put(db, b"{}")
    claim(db, OTHER)
    assert not inbox.has_work(db, ("normal",), NOW + LEASE)
    assert inbox.has_work(db, ("normal",), NOW + LEASE + 1)
    assert len(claim(db, now=NOW + LEASE + 1)) == 1
