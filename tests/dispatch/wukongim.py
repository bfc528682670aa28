"""Stands for a WuKongIM server of either line: what its users' connections are, and what it posts of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.dispatch.virtual import VirtualLoop

LATE = 2.1
"""Seconds by which both lines were seen to post a status after the close."""
UNHEARD = 100
"""Milliseconds after a close in which v2 posts no msg.offline for the user."""
LAG = 200
"""Milliseconds for which v2, when asked, still names a connection that closed."""


@dataclass
class User:
    """What is true of a user. Times in milliseconds.

    muted: v2 never posts that they left. open: device flags by connection id. closed: device flag and time of each
    that was. left, came: when they last went offline and online. times: how often they left. told: whether the bridge
    was sent that they left. number, arrived: of what was posted last, and arrived. said: when it was last sent anything
    of them, and behind: how much is still to come.
    clean: whether all of it was posted, in its order, by a server that did not restart. story: what happened when.
    """

    uid: str
    muted: bool = False
    open: dict[int, int] = field(default_factory=dict)
    left: int = 0
    came: int = 0
    times: int = 0
    told: bool = True
    said: int = 0
    behind: int = 0
    number: int = 0
    arrived: int = 0
    clean: bool = True
    closed: list[tuple[int, int]] = field(default_factory=list)
    story: list[tuple[int, str, str]] = field(default_factory=list)


class Wukongim:
    """post: what takes a call of `user.onlinestatus`."""

    def __init__(self, line: str, users: Sequence[User], loop: VirtualLoop, post: Callable[[Sequence[str]], None]):
        self.line = line
        self.users = {user.uid: user for user in users}
        self._loop = loop
        self._post = post
        self._next = 1
        self._after = 0.0
        self._history: list[str] = []
        self._run = 0

    def opens(self, user: User, flag: int, late: float, again: float | None, lost: bool) -> None:
        connection, self._next = self._next, self._next + 1
        if not user.open:
            user.came = self._loop.now_ms()
        user.open[connection] = flag
        self._say(user, flag, True, connection, late, again, lost)

    def closes(self, user: User, late: float, again: float | None, lost: bool, newest: bool) -> None:
        connection = (max if newest else min)(user.open)
        flag = user.open.pop(connection)
        user.closed.append((flag, self._loop.now_ms()))
        if not user.open:
            self._left(user)
        if self.line == "v2" and user.muted:
            user.clean = False
        elif self.line == "v2" or not user.open:
            self._say(user, flag, False, connection, min(late, LATE), again, lost)

    def _left(self, user: User) -> None:
        user.left, user.told = self._loop.now_ms(), False
        user.times += 1

    def _say(
        self, user: User, flag: int, online: bool, connection: int, late: float, again: float | None, lost: bool
    ) -> None:
        of_kind = sum(kind == flag for kind in user.open.values())
        text = f"{user.uid}-{flag}-{int(online)}-{connection}-{of_kind}-{len(user.open)}"
        user.story.append((self._loop.now_ms(), "lost" if lost else "happens", text))
        if lost:
            user.clean = False
            return
        at = self._loop.time() + (min(late, LATE) if self.line == "v2" else late)
        if self.line == "v2":
            at = self._after = max(at, self._after)
        times, run = user.times if not user.open else None, self._run
        user.behind += 1
        user.number += 1
        number = user.number

        def arrive(first: bool) -> None:
            if run != self._run:
                return
            self._history.append(text)
            user.story.append((self._loop.now_ms(), "arrives", text))
            user.said = self._loop.now_ms()
            user.behind -= first
            user.clean &= not first or number == user.arrived + 1
            user.arrived = max(user.arrived, number)
            user.told = user.told or user.times == times
            if self.line == "v2" and again:
                # The whole batch comes again, and newer ones after it.
                self._post([text])
                self._post(self._history[-3:])
            else:
                self._post([text])

        self._loop.call_at(at, arrive, True)
        if self.line == "v3" and again is not None:
            self._loop.call_at(at + again, arrive, False)

    def ends(self, gently: bool) -> None:
        """The server stops, and is back at once. v3 says who is offline when it is told to stop."""
        for user in self.users.values():
            user.clean = False
            while user.open and gently and self.line == "v3":
                self.closes(user, 0.0, None, False, True)
            if user.open:
                user.closed += [(flag, self._loop.now_ms()) for flag in user.open.values()]
                user.open.clear()
                self._left(user)
        self._next = 1
        if gently and self.line == "v3":
            return
        self._run += 1
        for user in self.users.values():
            user.behind = 0
        self._history.clear()
        self._after = 0.0

    def named(self) -> list[User]:
        """Whom msg.offline names where everybody receives a message that is sent now."""
        if self.line == "v3":
            return [user for user in self.users.values() if not user.open]
        return [user for user in self.users.values() if user.open or self._loop.now_ms() - user.left >= UNHEARD]

    def online(self, uid: str) -> frozenset[int]:
        """The answer to a question."""
        user = self.users[uid]
        lag = LAG if self.line == "v2" else 0
        lately = [flag for flag, at in user.closed if self._loop.now_ms() - at < lag]
        return frozenset([*user.open.values(), *lately])
