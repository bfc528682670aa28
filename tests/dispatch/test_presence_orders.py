"""Whatever WuKongIM posts, in whatever order, whoever is offline in the end has their push: a whole dispatcher against
a model of the server, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from app import events, intake
from app.dispatch import taking
from app.model import Outcome
from app.plan import Policy
from app.store import inbox
from app.store.inbox import Arrival
from app.store.schema import metadata
from tests.dispatch.conftest import Asked, Bridge, Stub
from tests.dispatch.virtual import START, VirtualLoop
from tests.dispatch.wukongim import User, Wukongim

HOLD, TTL, ASK_AFTER = 3_000, 60_000, 300
UIDS = [*(f"u{n}" for n in range(10)), *(f"unheard-{n}-0-1" for n in range(2))]
FLAGS = [0, 0, 1]
SECONDS = [0.0, 0.0, 0.02, 0.1, 0.15, 1.0, 2.9, 5.0]
LATE = [0.0, 0.2, 2.1, 10.0]
AGAIN = [None, None, 0.5, 4.0]
SEED = st.integers(0, 2**32)


@dataclass(frozen=True)
class Sent:
    """One recipient of a message, named in msg.offline. at: when it was sent. posted: when the bridge heard of it."""

    message_id: int
    user: User
    at: int
    posted: int
    could_know: bool


class Orders(RuleBasedStateMachine):
    bridge: Bridge
    patch: pytest.MonkeyPatch

    @initialize(line=st.sampled_from(["v2", "v3"]), asking=st.sampled_from(["no", "up", "down"]), seed=SEED)
    def start(self, line: str, asking: str, seed: int) -> None:
        self.loop = VirtualLoop()
        self.patch.setattr("app.clock.time", self.loop)
        with self.bridge.database.write() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
        self.asking = asking
        users = [User(uid, muted=uid.startswith("unheard")) for uid in UIDS]
        self.wukongim = Wukongim(line, users, self.loop, self._post)
        self.sent: list[Sent] = []
        self.poked = True
        self.killed_at = 0
        self.bridges: list[tuple[int, str]] = []
        # Nothing but a poke and what is due wakes it: a lost poke costs an hour.
        for name in ("incoming.POLL", "waiting.POLL", "loop.RENEW_EVERY", "loop.BEAT_EVERY", "loop.TIDY_EVERY"):
            self.patch.setattr(f"app.dispatch.{name}", 3_600.0)
        for uid in UIDS:
            self.bridge.register(uid, "p")
        self.task: asyncio.Task[None] | None = None
        self.bridge_starts()
        chance = Random(seed)
        for _ in range(4):
            self.everybody_acts(chance.choice(SECONDS), chance.randrange(2**32))
            self.writes(chance.choice(SECONDS), 0.0)

    def _post(self, statuses: Sequence[str]) -> None:
        self.bridge.statuses(*statuses)
        self._poke()

    def _poke(self) -> None:
        if self.task is not None and self.poked:
            self.bridge.poke()

    async def _ask(self, uids: Sequence[str]) -> dict[str, frozenset[int]] | None:
        if self.asking == "down":
            await asyncio.sleep(self.answer_in * 10)
            return None
        answer = {uid: self.wukongim.online(uid) for uid in uids}
        await asyncio.sleep(self.answer_in)
        return answer

    def _pass(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        if self.task is not None:
            assert not self.task.done(), self.task.exception()

    answer_in = 0.0

    @rule(answer_in=st.sampled_from([0.0, 0.05, 0.2]), poked=st.booleans())
    def changes(self, answer_in: float, poked: bool) -> None:
        self.answer_in, self.poked = answer_in, poked

    @rule(after=st.sampled_from(SECONDS), seed=SEED)
    def everybody_acts(self, after: float, seed: int) -> None:
        self._pass(after)
        chance = Random(seed)
        for user in self.wukongim.users.values():
            late, again = chance.choice(LATE), chance.choice(AGAIN)
            lost = chance.random() < 0.05
            match chance.choice(["opens", "opens", "closes", "closes", "comes and goes", "waits"]):
                case "opens":
                    self.wukongim.opens(user, chance.choice(FLAGS), late, again, lost)
                case "closes" if user.open:
                    self.wukongim.closes(user, late, again, lost, newest=chance.random() < 0.5)
                case "comes and goes":
                    self.wukongim.opens(user, chance.choice(FLAGS), late, again, lost)
                    self.wukongim.closes(user, chance.choice(LATE), again, False, newest=chance.random() < 0.5)

    @rule(after=st.sampled_from(SECONDS), late=st.sampled_from([0.0, 0.005, 0.197]))
    def writes(self, after: float, late: float) -> None:
        self._pass(after)
        at = self.loop.now_ms()
        named = self.wukongim.named()
        self._pass(late)
        if named:
            message_id = self.bridge.message(*(user.uid for user in named))
            self.sent += [
                Sent(message_id, user, at, self.loop.now_ms(), user.clean and not user.behind) for user in named
            ]
            self._poke()

    @rule()
    def crowd_comes(self) -> None:
        """More calls than are applied at once."""
        arrivals = [
            Arrival(events.STATUS, b'["crowd-0-1-1-1-1"]', self.loop.now_ms(), intake.STATUS_LANE, 1, False)
            for _ in range(taking.STATUS_CALLS + 1)
        ]
        with self.bridge.database.write() as connection:
            inbox.put(connection, arrivals)

    @rule(gently=st.booleans())
    def server_restarts(self, gently: bool) -> None:
        self.wukongim.ends(gently)

    @precondition(lambda self: self.task is not None)
    @rule()
    def bridge_is_killed(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.task = None
        self.bridge.close()
        self.killed_at = self.loop.now_ms()
        self.bridges.append((self.killed_at, "killed"))

    @precondition(lambda self: self.task is None)
    @rule()
    def bridge_starts(self) -> None:
        self.bridges.append((self.loop.now_ms(), "starts"))
        policy = Policy(hold=HOLD, ttl=TTL, ask_after=None if self.asking == "no" else ASK_AFTER)
        ask = None if self.asking == "no" else Asked(self._ask)
        self.task = self.loop.create_task(self.bridge.new(Stub("p"), policy=policy, ask=ask).run())

    @rule(seconds=st.sampled_from([0.5, 3.5, 15.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self._pass(seconds)

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            if self.task is None:
                self.bridge_starts()
            self.poked = True
            self._pass(21.0)
            self.writes(0.0, 0.0)
            self._pass(4.0)
            self._judge()
        finally:
            if self.task is not None:
                self.bridge_is_killed()
            self.loop.close()

    def _judge(self) -> None:
        rows = self.bridge.outcomes_by_message()
        for sent in self.sent:
            outcome = rows[sent.message_id, sent.user.uid]
            if self.is_owed(sent):
                assert outcome == Outcome.SENT, self.story(sent)
            if self.is_spared(sent):
                assert outcome == Outcome.SUPPRESSED, self.story(sent)

    def story(self, sent: Sent) -> str:
        user = sent.user
        told = [(at, f"{how} {what}") for at, how, what in user.story]
        told += [
            (sent.at, "message"),
            (sent.posted, "msg.offline"),
            *((at, f"bridge {what}") for at, what in self.bridges),
        ]
        lines = [f"{(at - START) / 1000:8.3f} {words}" for at, words in sorted(told, key=lambda line: line[0])]
        return "\n".join([f"{self.wukongim.line}, asking: {self.asking}, told: {user.told}", *lines])

    def is_owed(self, sent: Sent) -> bool:
        """Offline since before the message, and the bridge was told so, or may ask, or has heard nothing for long."""
        user = sent.user
        if user.open or user.left > sent.at:
            return False
        return user.told or self.asking == "up" or sent.posted > user.said + TTL

    def is_spared(self, sent: Sent) -> bool:
        """Online since before the message, and the bridge had been told so, and not long ago."""
        user = sent.user
        if not user.open or user.came >= sent.at or not sent.could_know or not user.clean:
            return False
        return self.asking == "up" or (user.said <= sent.posted <= user.said + TTL - HOLD > self.killed_at)


@pytest.fixture
def simulated(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> type[Orders]:
    return type("Simulated", (Orders,), {"bridge": bridge, "patch": monkeypatch})


@pytest.mark.soak
def test_whoever_is_offline_in_the_end_has_their_push(simulated: type[Orders], soak: bool) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        simulated,
        settings=settings(
            max_examples=150 if soak else 3,
            derandomize=True,  # the same orders each time: a gate that fails by chance is no gate
            stateful_step_count=16,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink takes minutes, and the story says it all
            suppress_health_check=list(HealthCheck),
        ),
    )
