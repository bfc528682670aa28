"""Deliveries: identity, retry queue and trace."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection

from app.model import Outcome
from app.store import deliveries, inbox, keys, schema
from app.store.rows import Delivery
from tests.store.kit import ME, NOW, OTHER, UIDS, delivery, one, planned, rows, stored, waiting


def claim(db: Connection, owner: str = ME, now: int = NOW, provider: str = "ios", limit: int = 100) -> list[Delivery]:
    """Claim with a lease of 1,000 ms."""
    return deliveries.claim_due(db, provider, 0, limit, owner, now, 1_000)


def test_every_field_comes_back(db: Connection) -> None:
    row = delivery(
        outcome=Outcome.RETRYING,
        reason="503",
        provider_id="projects/p/messages/1",
        source="test",
        attempts=3,
        first_at=NOW - 5_000,
        at=NOW,
        latency_ms=5_000,
        due_at=NOW + 1,
        event_id=7,
    )
    assert deliveries.insert_new(db, [row]) == 1
    found = one(db)
    assert found.id > 0
    assert replace(found, id=0) == row


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_fits_its_column(db: Connection, outcome: Outcome) -> None:
    deliveries.insert_new(db, [delivery(outcome=outcome)])
    assert one(db).outcome is outcome


@pytest.mark.parametrize("message_id", [1, 2**53 + 1, 2**63 - 1])
def test_message_ids_are_exact(db: Connection, message_id: int) -> None:
    deliveries.insert_new(db, [delivery(message_id=message_id)])
    assert one(db).message_id == message_id
    assert deliveries.trace(db, message_id=message_id - 1) == []


def test_long_texts_are_cut_to_their_columns(db: Connection) -> None:
    deliveries.insert_new(db, [delivery(reason="r" * 300, provider_id="汉" * 300)])
    assert (one(db).reason, one(db).provider_id) == ("r" * 255, "汉" * 255)


@pytest.mark.parametrize("uid", UIDS, ids=range(len(UIDS)))
def test_any_uid_round_trips(db: Connection, uid: str) -> None:
    deliveries.insert_new(db, [waiting(uid), delivery("somebody else")])
    assert [row.uid for row in deliveries.trace(db, uid=uid)] == [uid]
    assert {row.uid for row in deliveries.trace(db)} == {uid, "somebody else"}
    assert deliveries.known(db, [2**60 + 1], [uid]) == {(2**60 + 1, uid, "d1")}
    assert [row.uid for row in claim(db)] == [uid]


def test_all_uids_stay_apart(db: Connection) -> None:
    assert deliveries.insert_new(db, [delivery(uid) for uid in UIDS]) == len(UIDS)
    assert {row.uid for row in deliveries.trace(db, limit=100)} == set(UIDS)


@pytest.mark.parametrize("pair", [("Ann", "ann"), ("ann", "ann "), ("é", "e\u0301"), ("ß", "ss"), ("a", "ä")])
def test_uids_are_compared_byte_for_byte(db: Connection, pair: tuple[str, str]) -> None:
    assert deliveries.insert_new(db, [delivery(uid) for uid in pair]) == 2
    assert [row.uid for row in deliveries.trace(db, uid=pair[0])] == [pair[0]]


def test_a_repeat_leaves_the_row_alone(db: Connection) -> None:
    first = delivery(outcome=Outcome.SENT, provider_id="first")
    assert deliveries.insert_new(db, [first]) == 1
    again = [waiting(provider_id="second"), delivery(device_id="d2"), delivery("u2")]
    assert deliveries.insert_new(db, again) == 2
    (kept,) = [row for row in deliveries.trace(db, uid="u1") if row.device_id == "d1"]
    assert replace(kept, id=0) == first


def test_a_repeat_within_one_batch_counts_once(db: Connection) -> None:
    assert deliveries.insert_new(db, [delivery(reason="a"), delivery(reason="b")]) == 1
    assert one(db).reason == "a"


def test_identity_is_message_user_and_device(db: Connection) -> None:
    others = [delivery(), delivery(message_id=5), delivery("u2"), delivery(device_id="d2"), delivery(device_id="")]
    assert deliveries.insert_new(db, others) == 5
    assert deliveries.known(db, [5, 2**60 + 1], ["u1", "nobody"]) == {
        (2**60 + 1, "u1", "d1"),
        (5, "u1", "d1"),
        (2**60 + 1, "u1", "d2"),
        (2**60 + 1, "u1", ""),
    }


def test_nothing_is_fine(db: Connection) -> None:
    assert deliveries.insert_new(db, []) == 0
    assert deliveries.update_held_by(db, [], ME) == 0
    assert deliveries.known(db, [], []) == set()
    assert deliveries.release_held(db, [], NOW) == 0


def test_more_rows_than_fit_one_statement(db: Connection) -> None:
    uids = [f"u{n}" for n in range(1_201)]
    assert deliveries.insert_new(db, [waiting(uid) for uid in uids]) == 1_201
    assert len(deliveries.known(db, [2**60 + 1], uids)) == 1_201
    assert len(claim(db, limit=2_000)) == 1_201
    assert claim(db, limit=2_000) == []


def test_due_rows_are_claimed_once_in_their_order(db: Connection) -> None:
    stored(db, waiting("b", due_at=NOW - 1), waiting("c", due_at=NOW), waiting("a", due_at=NOW - 2))
    stored(db, waiting("later", due_at=NOW + 1), waiting("android", provider="android"), delivery("sent"))
    assert [row.uid for row in claim(db, limit=2)] == ["b", "a"], "those most due, as they were planned"
    assert [row.uid for row in claim(db, OTHER)] == ["c"]
    assert claim(db) == []


def test_rows_of_users_have_the_empty_provider(db: Connection) -> None:
    stored(db, waiting("held", "", provider="", outcome=Outcome.HELD), waiting("other"))
    assert [row.uid for row in claim(db, provider="")] == ["held"]


def test_a_lease_that_ran_out_is_claimed_again(db: Connection) -> None:
    stored(db, waiting())
    claim(db)
    assert claim(db, OTHER, NOW + 999) == []
    assert len(claim(db, OTHER, NOW + 1_000)) == 1


def test_renewed_leases_hold(db: Connection) -> None:
    stored(db, waiting(), delivery("settled"))
    claim(db)
    deliveries.renew(db, ME, NOW + 5_000)
    deliveries.renew(db, OTHER, NOW)
    assert claim(db, OTHER, NOW + 4_999) == []
    assert len(claim(db, OTHER, NOW + 5_000)) == 1
    assert deliveries.trace(db, uid="settled")[0].due_at is None


def test_rescue_frees_what_the_former_process_held(db: Connection) -> None:
    stored(db, waiting(), waiting("u2"))
    claim(db, limit=1)
    claim(db, OTHER)
    assert deliveries.free(db, ME, NOW + 1) == 1
    assert deliveries.free(db, ME, NOW + 1) == 0
    assert [row.uid for row in claim(db, ME, NOW + 1)] == ["u1"]


def test_rows_inserted_for_an_owner_are_its_own(db: Connection) -> None:
    deliveries.insert_new(db, [waiting(), delivery("u2")], ME)
    assert deliveries.free(db, ME, NOW) == 1


def test_settling_writes_what_is_held_and_lets_go(db: Connection) -> None:
    stored(db, waiting(event_id=9))
    (row,) = claim(db)
    done = replace(
        row,
        outcome=Outcome.SENT,
        reason="",
        provider_id="abc",
        attempts=1,
        at=NOW + 80,
        latency_ms=80,
        due_at=None,
        event_id=None,
    )
    assert deliveries.update_held_by(db, [done], ME) == 1
    assert one(db) == done
    assert deliveries.update_held_by(db, [replace(done, outcome=Outcome.DEAD)], ME) == 0
    assert one(db).outcome is Outcome.SENT


def test_what_somebody_else_holds_by_now_is_not_settled(db: Connection) -> None:
    stored(db, waiting(), waiting("u2"))
    mine = claim(db)
    (taken,) = claim(db, OTHER, NOW + 1_000, limit=1)
    settled = [replace(row, outcome=Outcome.SENT, due_at=None) for row in mine]
    assert deliveries.update_held_by(db, settled, ME) == 1
    assert [row.outcome for row in deliveries.trace(db, uid=taken.uid)] == [Outcome.RETRYING]
    assert deliveries.update_held_by(db, settled, OTHER) == 1


def test_a_retry_waits_and_is_free_again(db: Connection) -> None:
    stored(db, waiting())
    (row,) = claim(db)
    deliveries.update_held_by(db, [replace(row, attempts=1, due_at=NOW + 2_000)], ME)
    assert deliveries.free(db, ME, NOW) == 0
    assert claim(db, OTHER, NOW + 1_999) == []
    assert claim(db, OTHER, NOW + 2_000)[0].attempts == 1


def test_next_due_is_the_earliest_that_is_free(db: Connection) -> None:
    assert deliveries.next_due(db, ["ios", "android"], ME) is None
    stored(db, waiting("a", due_at=NOW - 5), waiting("b", due_at=NOW + 7), delivery("sent"))
    stored(db, waiting("c", provider="android", due_at=NOW + 3), waiting("d", provider="web", due_at=NOW - 9))
    assert deliveries.next_due(db, ["ios", "android"], ME) == NOW - 5
    claim(db)
    assert deliveries.next_due(db, ["ios", "android"], ME) == NOW + 3
    assert deliveries.next_due(db, ["ios"], ME) == NOW + 7
    assert deliveries.next_due(db, [], ME) is None


def test_an_offline_event_makes_what_is_held_due(db: Connection) -> None:
    long = "u" * 5_000
    held = {"outcome": Outcome.HELD, "provider": "", "due_at": NOW + 3_000}
    stored(db, waiting("u1", "", **held), waiting(long, "", **held), waiting("stays", "", **held))
    stored(db, waiting("u1", "d1", due_at=NOW + 9_000), waiting("u1", "", message_id=4, **{**held, "due_at": NOW - 1}))
    assert deliveries.release_held(db, ["u1", long, "nobody"], NOW) == 2
    due = claim(db, provider="")
    assert {(row.message_id, row.uid) for row in due} == {(2**60 + 1, "u1"), (2**60 + 1, long), (4, "u1")}
    assert [row.due_at for row in deliveries.trace(db, uid="u1") if row.device_id] == [NOW + 9_000]


def test_a_claimed_held_row_is_not_released(db: Connection) -> None:
    stored(db, waiting("u1", "", outcome=Outcome.HELD, provider=""))
    claim(db, provider="")
    assert deliveries.release_held(db, ["u1"], NOW) == 0
    assert claim(db, OTHER, provider="") == []


@pytest.mark.parametrize("uid", ["u1", "u" * 5_000])
def test_a_held_user_becomes_one_row_a_device(db: Connection, uid: str) -> None:
    stored(db, waiting(uid, "", outcome=Outcome.HELD, provider="", event_id=3))
    (held,) = claim(db, provider="")
    pushes = [
        waiting(uid, f"d{n}", outcome=Outcome.QUEUED, due_at=NOW + 1_000, first_at=NOW - 3, event_id=3) for n in (1, 2)
    ]
    released = deliveries.release_to_devices(db, held, pushes, ME)
    assert released is not None
    assert [replace(row, id=0) for row in released] == pushes
    assert {row.device_id for row in deliveries.trace(db, uid=uid)} == {"d1", "d2"}
    assert deliveries.update_held_by(db, [replace(row, due_at=None) for row in released], ME) == 2


def test_a_held_row_that_is_lost_is_not_released(db: Connection) -> None:
    stored(db, waiting("u1", "", outcome=Outcome.HELD, provider=""))
    (held,) = claim(db, provider="")
    claim(db, OTHER, NOW + 1_000, provider="")
    before = deliveries.trace(db)
    assert deliveries.release_to_devices(db, held, [waiting()], ME) is None
    assert deliveries.trace(db) == before


def test_a_device_with_an_outcome_is_not_released_again(db: Connection) -> None:
    """Two webhooks may name one user: what was sent for the first is not sent for the second."""
    (event_id,) = planned(db, b"{}")
    db.execute(schema.deliveries.delete())
    stored(db, delivery(provider_id="sent before"))
    stored(db, waiting("u1", "", outcome=Outcome.HELD, provider="", event_id=event_id))
    (held,) = claim(db, provider="")
    assert deliveries.release_to_devices(db, held, [waiting(event_id=event_id)], ME) == []
    assert one(db).provider_id == "sent before"
    assert not inbox.load(db, [event_id]), "nobody needs the content any more"


def test_trace_filters(db: Connection) -> None:
    stored(db, delivery(), delivery("u2", outcome=Outcome.DEAD), delivery("u1", "d2", message_id=5, at=NOW + 1))
    keys = [(row.uid, row.message_id) for row in deliveries.trace(db)]
    assert keys == [("u1", 5), ("u2", 2**60 + 1), ("u1", 2**60 + 1)]
    assert [row.device_id for row in deliveries.trace(db, uid="u1")] == ["d2", "d1"]
    assert [row.device_id for row in deliveries.trace(db, uid="u1", message_id=5)] == ["d2"]
    assert [row.uid for row in deliveries.trace(db, outcome="dead")] == ["u2"]
    assert deliveries.trace(db, uid="") == []
    assert len(deliveries.trace(db, limit=2)) == 2


def test_trace_pages_neither_repeat_nor_lose_rows_of_one_time(db: Connection) -> None:
    stored(db, *(delivery(f"u{n}", at=NOW + n // 4) for n in range(11)))
    everything = deliveries.trace(db)
    seen: list[Delivery] = []
    while page := deliveries.trace(db, limit=3, before=(seen[-1].at, seen[-1].id) if seen else None):
        seen += page
    assert seen == everything
    assert len(seen) == 11


def test_dead_letters_have_their_content(db: Connection) -> None:
    dead = {"outcome": Outcome.DEAD, "due_at": None}
    stored(db, delivery("a", event_id=1, **dead), delivery("b", **dead), delivery("c", event_id=1, **dead))
    stored(db, waiting("d", event_id=1))
    letters = deliveries.dead_letters(db, 10)
    assert [row.uid for row in letters] == ["c", "a"]
    assert [row.uid for row in deliveries.dead_letters(db, 1)] == ["c"]
    assert [row.uid for row in deliveries.dead_letters(db, 10, before=letters[0].id)] == ["a"]


def test_a_dead_letter_is_tried_again(db: Connection) -> None:
    stored(db, delivery(outcome=Outcome.DEAD, attempts=9, event_id=1, first_at=NOW - 10**8))
    letter = one(db)
    assert deliveries.retry_dead(db, letter.id, NOW + 5)
    (row,) = claim(db, now=NOW + 5)
    assert (row.outcome, row.attempts, row.first_at, row.event_id) == (Outcome.RETRYING, 0, NOW + 5, 1)
    assert not deliveries.retry_dead(db, letter.id, NOW)
    assert deliveries.dead_letters(db, 10) == []


def test_only_dead_letters_are_tried_again_or_forgotten(db: Connection) -> None:
    for row in stored(db, delivery(event_id=1), delivery("no content", outcome=Outcome.DEAD)):
        assert not deliveries.retry_dead(db, row.id, NOW)
        assert not deliveries.forget_dead(db, row.id)
    assert not deliveries.retry_dead(db, 10**9, NOW)
    assert not deliveries.forget_dead(db, 10**9)


def test_forgetting_a_dead_letter_removes_the_content_that_no_other_needs(db: Connection) -> None:
    (event_id,) = planned(db, b"{}")
    stored(db, waiting("other", event_id=event_id))
    for row in claim(db):
        deliveries.update_held_by(db, [replace(row, outcome=Outcome.DEAD, due_at=None)], ME)
    first, second = deliveries.dead_letters(db, 10)
    assert deliveries.forget_dead(db, first.id)
    assert inbox.load(db, [event_id])
    assert deliveries.forget_dead(db, second.id)
    assert not inbox.load(db, [event_id])
    assert not deliveries.forget_dead(db, second.id)
    assert {row.outcome for row in deliveries.trace(db)} == {Outcome.DEAD}


def test_what_was_put_off_before_it_was_sent_is_tried_now_a_few_at_a_time(db: Connection) -> None:
    queued = {"outcome": Outcome.QUEUED, "lane": 1}
    stored(
        db,
        *(waiting(f"far{n}", due_at=NOW + 900, **queued) for n in range(3)),
        waiting("sent", due_at=NOW + 900, lane=1),
    )
    stored(db, waiting("later", due_at=NOW + 901, **queued), waiting("soon", due_at=NOW + 7, **queued))
    stored(db, waiting("other", due_at=NOW + 900, outcome=Outcome.QUEUED), waiting("elsewhere", provider="a", **queued))
    places = [(NOW + 8, 0)]
    while (place := deliveries.hasten(db, "ios", 1, places[-1], NOW, 2)) != places[-1]:
        places.append(place)
    assert len(places) == 4
    rows = {row.uid: row.due_at for row in deliveries.trace(db)}
    assert {uid for uid, due_at in rows.items() if due_at == NOW} == {"far0", "far1", "far2", "later", "elsewhere"}


def test_a_push_under_way_is_not_released_a_second_time(db: Connection) -> None:
    """Two calls may name one user for one message: the first one's push is tried again while the second is held."""
    stored(db, waiting("u1", "d1", event_id=3))
    (running,) = claim(db)
    stored(db, waiting("u1", "", outcome=Outcome.HELD, provider="", event_id=4))
    (held,) = claim(db, provider="")
    pushes = [waiting("u1", device, outcome=Outcome.QUEUED, event_id=4) for device in ("d1", "d2")]
    released = deliveries.release_to_devices(db, held, pushes, ME)
    assert released is not None
    assert [row.device_id for row in released] == ["d2"]
    assert deliveries.update_held_by(db, [replace(running, outcome=Outcome.SENT, due_at=None)], ME) == 1


def test_what_is_under_way_to_a_provider_that_is_gone_is_not_given_up(db: Connection) -> None:
    """At a reload another dispatcher, which still has the provider, may have it."""
    stored(db, waiting(provider="gone"))
    (row,) = claim(db, OTHER, provider="gone")
    assert row.due_at is not None
    assert deliveries.give_up(db, ["gone"], NOW + 1, 10) == 0
    assert deliveries.give_up(db, ["gone"], NOW + 1_001, 10) == 1, "whoever had it is gone too"


def test_what_waits_for_a_provider_that_is_gone_is_given_up(db: Connection) -> None:
    stored(db, waiting("old", provider="gone"), waiting("new"), delivery("sent", provider="gone"))
    stored(db, waiting("held", "", provider="", outcome=Outcome.HELD))
    assert deliveries.awaited(db) == ["", "gone", "ios"]
    assert deliveries.give_up(db, ["gone"], NOW + 4, 10) == 1
    assert deliveries.awaited(db) == ["", "ios"]
    row = deliveries.trace(db, uid="old")[0]
    assert (row.outcome, row.reason, row.due_at, row.at) == (Outcome.DEAD, "provider_unknown", None, NOW + 4)
    assert {r.outcome for r in deliveries.trace(db) if r.uid != "old"} == {
        Outcome.RETRYING,
        Outcome.SENT,
        Outcome.HELD,
    }


def test_retention_removes_old_last_words_only(db: Connection) -> None:
    stored(db, *(delivery(f"u{n}", at=NOW + n) for n in range(5)), waiting("waits", at=NOW))
    place = deliveries.forget(db, NOW + 3, 2)
    assert {row.uid for row in deliveries.trace(db)} == {"u1", "u2", "u3", "u4", "waits"}
    place = deliveries.forget(db, NOW + 3, 2, place)
    assert {row.uid for row in deliveries.trace(db)} == {"u3", "u4", "waits"}
    assert deliveries.forget(db, NOW + 3, 2, place) == place
    assert {row.uid for row in deliveries.trace(db)} == {"u3", "u4", "waits"}


@pytest.mark.parametrize("times", [[NOW] * 7, [NOW, NOW, NOW + 1, NOW + 2, NOW + 2, NOW + 2, NOW + 3]])
def test_retention_passes_over_what_waits_however_old_it_is(db: Connection, times: list[int]) -> None:
    stored(db, *(waiting(f"waits {n}", at=at) for n, at in enumerate(times)))
    stored(db, *(delivery(f"old {n}", at=at) for n, at in enumerate(times)), delivery("young", at=NOW + 4))
    place, steps = deliveries.START, 0
    while (following := deliveries.forget(db, NOW + 4, 3, place)) != place:
        place, steps = following, steps + 1
    assert {row.uid for row in deliveries.trace(db)} == {*(f"waits {n}" for n in range(7)), "young"}
    assert steps == 5, "each row is looked at once"


def test_content_goes_with_the_last_dead_letter_that_is_forgotten(db: Connection) -> None:
    (event_id,) = planned(db, b"{}")
    (row,) = claim(db)
    deliveries.update_held_by(db, [replace(row, outcome=Outcome.DEAD, due_at=None)], ME)
    stored(db, delivery("another", outcome=Outcome.DEAD, event_id=event_id, at=NOW + 1))
    place = deliveries.forget(db, NOW + 1, 10)
    assert inbox.load(db, [event_id])
    deliveries.forget(db, NOW + 2, 10, place)
    assert not inbox.load(db, [event_id])


def test_pending_counts_what_is_not_settled(db: Connection) -> None:
    assert deliveries.pending(db) == {}
    stored(db, waiting(first_at=NOW - 9), waiting("u2"), delivery("sent", first_at=1))
    stored(db, waiting("held", "", outcome=Outcome.HELD, provider="", first_at=NOW - 3))
    claim(db)
    assert deliveries.pending(db) == {"retrying": (2, NOW - 9), "held": (1, NOW - 3)}


def test_long_uids_are_kept_once(db: Connection) -> None:
    stored(db, delivery("u" * 5_000), delivery("u" * 5_000, "d2"), delivery("short"))
    deliveries.insert_new(db, [delivery("u" * 5_000, "d3")])
    assert len(rows(db, schema.long_names)) == 1


def test_who_has_an_outcome_of_a_message(db: Connection) -> None:
    long = "u" * 5_000
    deliveries.insert_new(
        db,
        [
            delivery("u1", "", message_id=1, outcome=Outcome.SKIPPED),
            delivery("u1", "d1", message_id=2),
            delivery("u1", "d2", message_id=2),
            waiting(long, "", message_id=2),
            delivery("u3", message_id=3),
        ],
    )
    assert deliveries.named(db, [1, 2, 4]) == {1: {"u1"}, 2: {"u1", keys.key(long)}}
    assert deliveries.named(db, []) == {}
    assert deliveries.named(db, [*range(4, 1_500), 3]) == {3: {"u3"}}
