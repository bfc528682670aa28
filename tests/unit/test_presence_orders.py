"""All orders of what real servers of both lines post of one user, against what the user's connections really were."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement, permutations

import pytest

from app.model import APP, Connections, Status
from app.presence import Looks, apply, looks

NOW = 1_785_398_400_000
STEP = 100
WEB = 1
LINES = ("v2", "v3")

Action = tuple[int, bool]
"""Which of the sessions, and whether it opens."""


class Server:
    """One user's connections. v3 keeps quiet about those that close before the last one."""

    def __init__(self, line: str) -> None:
        self.line = line
        self.open: dict[int, int] = {}
        self.posted: list[Status] = []

    def act(self, connection: int, flag: int, opens: bool) -> None:
        if opens:
            self.open[connection] = flag
        else:
            del self.open[connection]
        if opens or self.line == "v2" or not self.open:
            of_kind = sum(kind == flag for kind in self.open.values())
            self.posted.append(Status("u", flag, opens, connection, of_kind, len(self.open)))


def histories(sessions: int) -> Iterator[tuple[Action, ...]]:
    """Every order in which sessions open, one after another, and may close."""

    def go(done: tuple[Action, ...], opened: int, still: frozenset[int]) -> Iterator[tuple[Action, ...]]:
        yield done
        if opened < sessions:
            yield from go((*done, (opened, True)), opened + 1, still | {opened})
        for session in sorted(still):
            yield from go((*done, (session, False)), opened, still - {session})

    return go((), 0, frozenset())


def lives(line: str, sessions: int, first: int = 1) -> Iterator[tuple[list[Status], set[int]]]:
    """What was posted in each history, with every mix of kinds of device; and which kinds are online after it."""
    for flags in combinations_with_replacement((APP, WEB), sessions):
        for order in {flags, flags[::-1]}:
            for history in histories(sessions):
                server = Server(line)
                for session, opens in history:
                    server.act(first + session, order[session], opens)
                yield server.posted, set(server.open.values())


def look(*posted: Status, known: Connections | None = None, start: int = NOW, suppress: str = "any") -> Looks:
    known = {} if known is None else known
    for index, status in enumerate(posted):
        known = apply(known, status, start + index * STEP)
    return looks(known, suppress, 3_600_000, start + len(posted) * STEP)


def repeated(posted: list[Status]) -> Iterator[list[Status]]:
    """As posted, and with each stretch posted twice on end, as a batch is whose first answer came too late."""
    yield posted
    for start in range(len(posted)):
        for end in range(start + 1, len(posted) + 1):
            yield [*posted[:end], *posted[start:]]


@pytest.mark.parametrize("line", LINES)
def test_in_order_the_last_word_is_the_truth(line: str) -> None:
    for posted, online in lives(line, 3):
        assert look(*posted) is (Looks.ONLINE if online else Looks.OFFLINE), posted
        if line == "v2":
            assert look(*posted, suppress="app") is (Looks.ONLINE if APP in online else Looks.OFFLINE), posted


@pytest.mark.parametrize("sessions", [2, 3])
def test_batches_that_v2_posts_again_change_nothing(sessions: int) -> None:
    """v2 keeps newer ones waiting meanwhile. Of three sessions a long batch may leave a doubt, which costs a push."""
    for posted, online in lives("v2", sessions):
        for arrived in repeated(posted):
            found = look(*arrived)
            if online:
                assert found is Looks.ONLINE or (sessions == 3 and found is Looks.DOUBTFUL), arrived
            else:
                assert found is Looks.OFFLINE, arrived


def test_whoever_left_is_not_believed_to_be_online_in_whatever_order_v3_says_so() -> None:
    for posted, online in lives("v3", 3):
        if not online:
            for arrived in permutations(posted):
                assert look(*arrived) is not Looks.ONLINE, arrived


def test_a_status_that_v3_repeats_later_makes_nobody_online_who_left() -> None:
    for posted, online in lives("v3", 3):
        if not online:
            for index in range(len(posted)):
                for first in range(len(posted)):
                    arrived = [*posted[:index], *posted[index + 1 :], posted[index]]
                    arrived.insert(first, posted[index])
                    assert look(*arrived) is not Looks.ONLINE, arrived


@pytest.mark.parametrize("line", LINES)
def test_after_a_restart_the_ids_are_low_again(line: str) -> None:
    """Whatever was known when the server was killed."""
    for before, _ in lives(line, 2, first=90):
        known: Connections = {}
        for index, status in enumerate(before):
            known = apply(known, status, NOW + index * STEP)
        for posted, online in lives(line, 2):
            if online or not posted:
                continue
            for arrived in permutations(posted) if line == "v3" else repeated(posted):
                assert look(*arrived, known=known, start=NOW + 3_000) is not Looks.ONLINE, (before, arrived)
