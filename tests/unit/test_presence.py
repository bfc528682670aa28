from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.model import Connection, Connections, Status
from app.presence import STALE_WITHIN, Looks, apply, correct, looks

NOW = 1_785_398_400_000
TTL = 3_600_000


def on(flag: int, connection: int, devices: int = 1, total: int = 1) -> Status:
    return Status("u", flag, True, connection, devices, total)


def off(flag: int, connection: int, devices: int = 0, total: int = 0) -> Status:
    return Status("u", flag, False, connection, devices, total)


def after(*statuses: Status, step: int = 100, known: Connections | None = None, start: int = NOW) -> Connections:
    known = {} if known is None else known
    for index, status in enumerate(statuses):
        known = apply(known, status, start + index * step)
    return known


def online(known: Connections) -> set[int]:
    return {flag for flag, connection in known.items() if connection.online}


def old(flag: int, is_online: bool) -> Status:
    return Status("u", flag, is_online)


STATUSES = st.builds(
    lambda flag, is_online, connection, devices, more: Status(
        "u", flag, is_online, connection, devices + is_online, devices + is_online + more
    ),
    st.sampled_from([0, 1, 2, 99]),
    st.booleans(),
    st.integers(1, 5),
    st.integers(0, 2),
    st.integers(0, 2),
) | st.builds(old, st.sampled_from([0, 1, 2]), st.booleans())


@given(st.lists(STATUSES, max_size=12))
def test_applying_an_event_twice_changes_nothing(statuses: list[Status]) -> None:
    known: Connections = {}
    for index, status in enumerate(statuses):
        known = apply(known, status, NOW + index * 100)
        assert apply(known, status, NOW + index * 100) == known
        later = apply(known, status, NOW + index * 100 + 50)
        assert online(later) == online(known)
        assert {flag: c.since for flag, c in later.items()} == {flag: c.since for flag, c in known.items()}


@given(st.lists(STATUSES, max_size=8), STATUSES)
def test_the_known_connections_are_not_changed_in_place(statuses: list[Status], last: Status) -> None:
    known = after(*statuses)
    copy = dict(known)
    apply(known, last, NOW + 10_000)
    assert known == copy


@pytest.mark.parametrize("step", [1, 100, 4_000])
def test_a_retried_older_online_after_the_offline_is_passed_over(step: int) -> None:
    assert online(after(off(0, 7), on(0, 7), step=step)) == set()
    assert online(after(on(0, 7), off(0, 7), on(0, 7), step=step)) == set()


def test_a_repeat_of_the_stale_online_stays_stale() -> None:
    assert online(after(off(0, 7), on(0, 7), on(0, 7), off(0, 7), on(0, 7))) == set()


def test_connection_ids_start_again_when_the_server_restarts() -> None:
    known = after(on(0, 1), off(0, 1))
    assert online(apply(known, on(0, 1), NOW + 100 + STALE_WITHIN)) == {0}


def test_a_repeated_offline_does_not_prolong_what_is_stale() -> None:
    known = after(on(0, 1), off(0, 1), off(0, 1), off(0, 1), step=4_000)
    assert online(apply(known, on(0, 1), NOW + 4_000 + STALE_WITHIN)) == {0}


def test_a_late_offline_of_an_older_connection_leaves_the_newer_one() -> None:
    """82 closes, 90 opens: the true order gives online, and so does the swapped one."""
    assert online(after(on(0, 82), off(0, 82), on(0, 90))) == {0}
    assert online(after(on(0, 82), on(0, 90), off(0, 82))) == {0}
    assert online(after(on(0, 82), on(0, 90), off(0, 82), off(0, 90))) == set()


def test_a_late_offline_of_an_older_connection_leaves_a_doubt_however_often_it_comes() -> None:
    """After a restart the older one would be the newer."""
    known = after(on(0, 90))
    for times in range(1, 4):
        known = apply(known, off(0, 82), NOW + times * 100)
        assert (looks(known, "any", TTL, NOW + 500), known[0].since) == (Looks.DOUBTFUL, NOW)
    assert online(apply(known, off(0, 90), NOW + 400)) == set()


def test_a_late_online_of_a_connection_that_closed_unsaid_is_in_doubt() -> None:
    """v3 says nothing of 90, which was not the last one to close."""
    known = after(on(0, 82), off(0, 82), on(0, 90, 2, 2))
    assert looks(known, "any", TTL, NOW + 300) is Looks.DOUBTFUL
    assert looks(apply(known, on(0, 91), NOW + 400), "any", TTL, NOW + 400) is Looks.ONLINE


def test_an_online_with_a_lower_id_soon_after_the_offline_is_in_doubt() -> None:
    """It is an older one that v3 tried again, or the server has restarted: which, nothing tells."""
    known = after(off(1, 90))
    assert looks(apply(known, on(0, 82), NOW + STALE_WITHIN - 1), "any", TTL, NOW + STALE_WITHIN) is Looks.DOUBTFUL
    assert looks(apply(known, on(0, 82), NOW + STALE_WITHIN), "any", TTL, NOW + STALE_WITHIN) is Looks.ONLINE


def test_ids_of_before_the_restart_are_forgotten() -> None:
    known = after(on(0, 3), off(0, 3), known=after(off(0, 90)), start=NOW + STALE_WITHIN)
    assert online(apply(known, on(0, 3), NOW + STALE_WITHIN + 200)) == set()


def test_an_older_connection_that_outlives_the_newer_one_is_believed() -> None:
    assert online(after(on(0, 82), on(0, 90, 2, 2), off(0, 90, 1, 1), off(0, 82))) == set()


def test_a_late_offline_that_speaks_of_others_makes_nobody_online() -> None:
    """The second of two sessions closes before the word of the first one's end has come, or it comes again."""
    true = (on(0, 1), on(0, 2, 2, 2), off(0, 1, 1, 1), off(0, 2))
    assert online(after(*true)) == set()
    assert online(after(true[0], true[1], true[3], true[2])) == set()
    assert online(after(*true, true[2])) == set()
    assert online(after(*true, *true[2:])) == set()


def test_an_offline_that_speaks_of_others_long_after_is_believed() -> None:
    known = after(on(0, 1), off(0, 1))
    assert online(apply(known, off(0, 3, 1, 1), NOW + 100 + STALE_WITHIN)) == {0}
    assert online(apply({}, off(0, 3, 1, 1), NOW)) == {0}


def test_an_offline_with_a_lower_id_long_after_is_believed() -> None:
    """After a restart of the server the ids are low again."""
    known = after(on(0, 90))
    assert online(apply(known, off(0, 3), NOW + STALE_WITHIN)) == set()


@pytest.mark.parametrize("order", list(permutations([on(0, 1), off(0, 1)])))
def test_one_session_ends_offline_in_any_order(order: tuple[Status, ...]) -> None:
    assert online(after(*order)) == set()
    assert online(after(*order, *order)) == set()


def test_counts_overrule_the_word() -> None:
    assert online(after(on(0, 1, 2, 2), off(0, 1, 1, 1))) == {0}
    assert online(after(on(0, 1, 0, 0))) == set()


def test_total_zero_is_offline_everywhere() -> None:
    assert online(after(on(0, 1), on(1, 2, 1, 2), on(2, 3, 1, 3), off(0, 1, 0, 0))) == set()


def test_other_kinds_end_when_the_counts_leave_no_room_for_them() -> None:
    known = after(on(0, 1), on(1, 2, 1, 2))
    assert online(known) == {0, 1}
    assert online(apply(known, on(1, 3, 2, 2), NOW + 500)) == {1}
    assert online(apply(known, on(1, 3, 1, 2), NOW + 500)) == {0, 1}


def test_the_kind_that_ended_without_a_word_ended_now() -> None:
    known = after(on(0, 1), on(1, 2))
    assert known[0].online is False
    assert known[0].since == known[0].seen == NOW + 100


def test_three_fields_speak_of_their_own_kind_only() -> None:
    assert online(after(old(0, True), old(1, True), old(0, False))) == {1}
    assert online(after(old(0, True), old(0, True), old(0, False), old(0, False))) == set()


def test_since_is_the_change_and_seen_the_last_word() -> None:
    known = after(on(0, 1), on(0, 1), on(0, 1))
    assert (known[0].since, known[0].seen) == (NOW, NOW + 200)
    known = apply(known, off(0, 1), NOW + 300)
    assert (known[0].since, known[0].seen, known[0].online) == (NOW + 300, NOW + 300, False)


APP_ONLINE = {0: Connection(True, NOW, NOW)}
WEB_ONLINE = {1: Connection(True, NOW, NOW), 0: Connection(False, NOW, NOW)}


@pytest.mark.parametrize(
    ("known", "suppress", "look"),
    [
        ({}, "any", Looks.OFFLINE),
        (APP_ONLINE, "any", Looks.ONLINE),
        (APP_ONLINE, "app", Looks.ONLINE),
        (APP_ONLINE, "none", Looks.OFFLINE),
        (WEB_ONLINE, "any", Looks.ONLINE),
        (WEB_ONLINE, "app", Looks.OFFLINE),
        (WEB_ONLINE, "none", Looks.OFFLINE),
        ({0: Connection(False, NOW, NOW)}, "any", Looks.OFFLINE),
    ],
)
def test_which_devices_silence_a_push(known: Connections, suppress: str, look: Looks) -> None:
    assert looks(known, suppress, TTL, NOW) is look


def test_an_old_word_is_doubtful() -> None:
    assert looks(APP_ONLINE, "any", TTL, NOW + TTL) is Looks.ONLINE
    assert looks(APP_ONLINE, "any", TTL, NOW + TTL + 1) is Looks.DOUBTFUL
    fresh_web = {**APP_ONLINE, 1: Connection(True, NOW, NOW + TTL)}
    assert looks(fresh_web, "any", TTL, NOW + TTL + 1) is Looks.ONLINE
    assert looks(fresh_web, "app", TTL, NOW + TTL + 1) is Looks.DOUBTFUL
    assert looks({0: Connection(False, NOW, NOW)}, "any", TTL, NOW + TTL + 1) is Looks.OFFLINE


def test_the_servers_answer_settles_every_kind() -> None:
    known = after(on(0, 1), on(1, 2, 1, 2))
    corrected = correct(known, frozenset({1, 2}), NOW + TTL * 2)
    assert online(corrected) == {1, 2}
    assert corrected[0].since == NOW + TTL * 2
    assert corrected[1].since == known[1].since
    assert looks(corrected, "any", TTL, NOW + TTL * 2) is Looks.ONLINE
    assert online(correct(known, frozenset(), NOW)) == set()
    assert correct({}, frozenset(), NOW) == {}


@given(st.lists(STATUSES, max_size=8), st.frozensets(st.sampled_from([0, 1, 2, 99])))
def test_correct_ends_where_the_server_says_and_twice_is_once(statuses: list[Status], flags: frozenset[int]) -> None:
    corrected = correct(after(*statuses), flags, NOW + 5_000)
    assert online(corrected) == flags
    assert correct(corrected, flags, NOW + 5_000) == corrected


def test_an_online_retried_after_the_correction_to_offline_stays_stale() -> None:
    known = correct(after(on(0, 7), off(0, 7)), frozenset(), NOW + 300)
    assert online(apply(known, on(0, 7), NOW + 400)) == set()
