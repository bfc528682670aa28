"""Limits that hold whatever the ids, the rows and the processes."""

from __future__ import annotations

import io
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.dialects.mysql.mariadb import MariaDBDialect
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DatabaseError
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql.dml import Insert

from app.model import Connection as Known
from app.model import Outcome
from app.store import deliveries, devices, inbox, keys, people, presence, relay, schema
from app.store.dialect import ROWS, NotLocked, WriteLock, reason
from app.store.rows import Drop
from tests.store.kit import ME, NOW, UIDS, claim, delivery, device, put, stored, waiting

COUNT_IN_TWO = """
import os, sys
from pathlib import Path
from app.store.dialect import WriteLock

lock, counter = WriteLock(Path(sys.argv[1]) / "lock"), Path(sys.argv[1]) / "counter"
with lock():
    counter.write_text("0")
child = os.fork()
for _ in range(500):
    with lock():
        counter.write_text(str(int(counter.read_text()) + 1))
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(counter.read_text())
"""


@pytest.mark.parametrize("length", [*range(230, 260), 5_000])
@pytest.mark.parametrize("letter", ["u", "é", "汉", "\U0001f600"])
def test_a_key_fits_every_column_that_holds_one(letter: str, length: int) -> None:
    columns = (schema.deliveries.c.uid, schema.devices.c.uid, schema.channels.c.channel_id, schema.long_names.c.key)
    assert len(keys.key(letter * length)) <= min(column.type.length for column in columns)  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 1])
def test_repeats_are_counted_right_in_batches_of_any_size(db: Connection, count: int) -> None:
    uids = [f"u{n}" for n in range(count)]
    assert deliveries.insert_new(db, [delivery(uid, reason="first") for uid in uids[::2]]) == len(uids[::2])
    assert deliveries.insert_new(db, [delivery(uid, reason="second") for uid in uids]) == len(uids[1::2])
    found = deliveries.trace(db, limit=count + 1)
    assert {row.uid for row in found if row.reason == "first"} == set(uids[::2])
    assert {row.uid for row in found if row.reason == "second"} == set(uids[1::2])


def test_a_statement_for_many_rows_is_compiled_once(db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(db, waiting("settled"), delivery("sent"))
    (due,) = deliveries.claim_due(db, "ios", 0, 10, ME, NOW, 1_000)
    assert deliveries.update_held_by(db, [due], ME) == 1
    monkeypatch.setattr(Insert, "compile", None)
    (due,) = deliveries.claim_due(db, "ios", 0, 10, ME, NOW, 1_000)
    assert deliveries.update_held_by(db, [due], ME) == 1
    assert deliveries.insert_new(db, [delivery("sent"), delivery("new")]) == 1


def test_devices_of_all_users_are_listed(db: Connection) -> None:
    mine = [
        device(uid, token=f"token {n}", provider=("ios", "android")[n % 2], locale="en") for n, uid in enumerate(UIDS)
    ]
    for each in mine:
        devices.put(db, each)
    assert {each.uid: each for each in devices.all_of(db, None, 100)} == {each.uid: each for each in mine}
    assert {each.uid for each in devices.all_of(db, "ios", 100)} == set(UIDS[::2])
    assert devices.all_of(db, None, 3) == devices.all_of(db, None, 100)[:3]
    assert devices.all_of(db, "nobody's", 100) == []


def test_the_lock_keeps_parent_and_child_apart(tmp_path: Path) -> None:
    """A file that was opened before the fork would let both in."""
    command = [sys.executable, "-c", COUNT_IN_TWO, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.stdout, run.stderr) == ("1000\n", "")


def test_locking_often_opens_one_file(tmp_path: Path) -> None:
    lock = WriteLock(tmp_path / "write.lock")
    for _ in range(20):
        with lock():
            pass
    opened = [fd for fd in Path("/proc/self/fd").iterdir() if fd.resolve() == tmp_path / "write.lock"]
    assert len(opened) == 1


def test_a_lock_that_cannot_be_had_is_a_fault_of_the_database(tmp_path: Path) -> None:
    (tmp_path / "write.lock").mkdir()
    with pytest.raises(NotLocked, match=r"^write\.lock: Is a directory$"), WriteLock(tmp_path / "write.lock")():
        raise AssertionError


def test_an_error_holds_nothing_of_what_was_to_be_written(db: Connection) -> None:
    db.exec_driver_sql("CREATE TRIGGER no BEFORE INSERT ON devices BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")
    with pytest.raises(DatabaseError) as caught:
        devices.put(db, device(token="the token of a phone"))
    assert "the token of a phone" not in str(caught.value)
    assert reason(caught.value) == "the disk is full"


@pytest.mark.parametrize(
    ("dialect", "digest", "name"),
    [
        (postgresql.dialect(), "BYTEA", "VARCHAR(255)"),  # type: ignore[no-untyped-call]
        (mysql.dialect(), "BINARY(16)", "COLLATE utf8mb4_0900_bin"),  # type: ignore[no-untyped-call]
        (MariaDBDialect(), "BINARY(16)", "COLLATE utf8mb4_nopad_bin"),
    ],
    ids=["postgresql", "mysql", "mariadb"],
)
def test_other_databases_can_index_what_is_indexed(dialect: Dialect, digest: str, name: str) -> None:
    described = [str(CreateTable(table).compile(dialect=dialect)) for table in schema.metadata.sorted_tables]
    migrated = io.StringIO()
    context = MigrationContext.configure(dialect=dialect, opts={"as_sql": True, "output_buffer": migrated})
    with Operations.context(context):
        import_module("app.store.migrations.versions.0001_first").upgrade()
    for made in ("".join(described), migrated.getvalue()):
        assert f"token_digest {digest} NOT NULL" in made
        assert f"\tdigest {digest} NOT NULL" in made.replace("    digest", "\tdigest")
        assert made.count(name) >= 8  # every column that holds a key, or more
        assert "latency_ms BIGINT" in made
        assert ("LONGBLOB" in made) == (dialect.name != "postgresql")


def steps(db: Connection, work: Callable[[], object]) -> int:
    """How many steps of SQLite's machine this takes, in thousands."""
    taken: list[None] = []
    driver = db.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.set_progress_handler(lambda: taken.append(None), 1_000)
    try:
        work()
    finally:
        driver.set_progress_handler(None, 0)
    return len(taken)


def test_a_lease_is_renewed_without_a_look_at_what_nobody_holds(db: Connection) -> None:
    put(db, *(str(n).encode() for n in range(2_000)))
    deliveries.insert_new(db, [waiting(f"u{n}") for n in range(2_000)])
    claim(db, limit=1)
    assert steps(db, lambda: inbox.renew(db, ME, NOW)) <= 1
    assert steps(db, lambda: inbox.free(db, ME)) <= 1
    assert steps(db, lambda: deliveries.renew(db, ME, NOW)) <= 1
    assert steps(db, lambda: deliveries.free(db, ME, NOW)) <= 1


def test_what_is_held_for_a_user_is_found_without_a_look_at_their_trace(db: Connection) -> None:
    deliveries.insert_new(db, [delivery(message_id=n) for n in range(2_000)])
    deliveries.insert_new(db, [waiting(message_id=n) for n in range(2_000, 4_000)])
    assert steps(db, lambda: deliveries.release_held(db, ["u1"], NOW)) <= 1


@pytest.mark.parametrize("channels", [1, 100])
def test_a_claim_costs_the_same_however_much_waits(db: Connection, channels: int) -> None:
    deliveries.insert_new(db, [waiting(f"u{n}", lane=1, channel=n % channels) for n in range(10_000)])
    assert steps(db, lambda: deliveries.claim_due(db, "ios", 1, 100, ME, NOW, 1_000, 50)) <= 20


def test_what_is_too_late_is_not_walked_with_each_claim(db: Connection) -> None:
    deliveries.insert_new(db, [waiting(f"u{n}", lane=1, channel=1, expires_at=NOW - 1) for n in range(10_000)])
    assert steps(db, lambda: deliveries.claim_due(db, "ios", 1, 8, ME, NOW, 1_000)) <= 10


def test_what_is_tidied_in_one_step_is_bounded_whatever_waits(db: Connection) -> None:
    put(db, *(str(n).encode() for n in range(4_000)))
    ids = [event.id for event in claim(db, limit=4_000)]
    deliveries.insert_new(db, [waiting(f"u{n}", event_id=n, due_at=NOW + 9) for n in ids])
    assert inbox.planned(db, ids, ME) == 4_000
    presence.put(db, {f"u{n}": {0: Known(False, NOW, NOW)} for n in range(4_000)})
    assert steps(db, lambda: deliveries.awaited(db)) <= 1
    assert steps(db, lambda: deliveries.give_up(db, ["gone"], NOW, 10)) <= 1
    assert steps(db, lambda: deliveries.forget(db, NOW + 1, 10)) <= 1
    assert steps(db, lambda: deliveries.hasten(db, "ios", 1, (NOW + 9, ids[9]), NOW, 10)) <= 1
    assert steps(db, lambda: inbox.sweep_next(db, ("normal", ids[9]), 10)) <= 1
    assert steps(db, lambda: presence.forget(db, NOW, 10, "u2")) <= 1


def test_devices_are_taken_back_without_a_look_at_the_others(db: Connection) -> None:
    for number in range(1_000):
        devices.put(db, device(f"u{number}", token=f"token {number}"))
    devices.drop(db, [Drop("u7", "d1", "ios", "token 7", NOW + 1, "BadDeviceToken")], NOW)
    assert steps(db, lambda: devices.restore(db, "ios", NOW, ["BadDeviceToken"])) <= 1
    assert devices.restore(db, "ios", NOW) == 0


def test_dead_letters_are_listed_without_a_look_at_what_was_sent(db: Connection) -> None:
    deliveries.insert_new(db, [delivery(f"u{n}", event_id=1, outcome=Outcome.DEAD) for n in range(9)])
    deliveries.insert_new(db, [delivery(message_id=n, event_id=None) for n in range(4_000)])
    assert steps(db, lambda: deliveries.dead_letters(db, 10)) <= 1
    assert steps(db, lambda: deliveries.dead_letters(db, 10, before=10**9)) <= 1


def test_the_kinds_that_wait_for_a_target_are_found_without_a_look_at_all_that_waits(db: Connection) -> None:
    relay.put(db, [relay.Copy("a", "one" if n % 2 else "two", b"%d" % n, NOW, True) for n in range(2_000)])
    assert steps(db, lambda: relay.kinds(db, "a", 10, "", ())) <= 1
    assert steps(db, lambda: relay.kinds(db, "a", 10, "p", ())) <= 1
    assert steps(db, lambda: relay.abandoned(db, [], NOW, 10)) <= 1


def test_what_is_oldest_for_a_target_is_found_without_a_look_at_all_that_waits(db: Connection) -> None:
    relay.put(db, [relay.Copy("a", "one" if n % 2 else "two", b"%d" % n, NOW, True) for n in range(2_000)])
    assert steps(db, lambda: relay.oldest(db, "a", 10)) <= 1


def test_what_is_old_is_dropped_without_a_look_at_the_young(db: Connection) -> None:
    relay.put(db, [relay.Copy("a", "one", b"%d" % n, NOW + n, True) for n in range(2_000)])
    assert steps(db, lambda: relay.drop(db, "a", "one", NOW + 1, 1_000)) <= 1


def test_calls_whose_time_is_to_come_are_not_walked(db: Connection) -> None:
    put(db, *(b"%d" % n for n in range(3)), lane="notify", not_before=NOW)
    put(db, *(b"%d" % n + b" " * 9_000 for n in range(3, 2_000)), lane="notify", not_before=NOW + 1)
    assert inbox.ready(db, "notify", 64, NOW) == 3
    assert steps(db, lambda: inbox.ready(db, "notify", 64, NOW)) <= 1
    assert steps(db, lambda: inbox.ready(db, "notify", 64, NOW - 1)) <= 1
    assert steps(db, lambda: inbox.has_work(db, ["status", "notify"], NOW)) <= 1
    assert steps(db, lambda: inbox.claim(db, "notify", 3, 9_999, ME, NOW, 1_000)) <= 1


def test_the_oldest_call_of_a_kind_is_not_sought_behind_all_of_another(db: Connection) -> None:
    put(db, *(b"%d" % n for n in range(20_000)), kind="rescue")
    assert steps(db, lambda: inbox.oldest(db, ["normal"], "msg.offline")) <= 20
    assert inbox.oldest(db, ["normal"], "msg.offline") == NOW
    assert inbox.oldest(db, ["now"], "msg.offline") is None


def test_what_is_not_due_is_not_walked_for_the_turns_of_channels(db: Connection) -> None:
    later = [waiting(f"u{n}", lane=1, channel=n % 2, due_at=NOW + 9) for n in range(20_000)]
    deliveries.insert_new(db, [*later, *(waiting(f"v{n}", lane=1, channel=n) for n in range(100))])
    assert steps(db, lambda: deliveries.claim_due(db, "ios", 1, 100, ME, NOW, 1_000, 0)) <= 40


def test_the_trace_goes_on_where_a_page_ended(db: Connection) -> None:
    deliveries.insert_new(db, [delivery(message_id=n, at=NOW + n) for n in range(4_000)])
    assert steps(db, lambda: deliveries.trace(db, limit=9, before=(NOW + 9, 10))) <= 1
    assert steps(db, lambda: deliveries.trace(db, limit=9, uid="u1", before=(NOW + 9, 10))) <= 1
    assert [row.at for row in deliveries.trace(db, limit=2, before=(NOW + 9, 10))] == [NOW + 8, NOW + 7]


def test_a_message_is_traced_without_a_look_at_all_that_its_user_got(db: Connection) -> None:
    deliveries.insert_new(db, [delivery(message_id=n, at=NOW + n) for n in range(4_000)])
    assert steps(db, lambda: deliveries.trace(db, message_id=9, uid="u1")) <= 1
    assert steps(db, lambda: deliveries.trace(db, message_id=9, uid="u1", before=(NOW + 5_000, 0))) <= 1


def test_channels_are_named_without_a_look_at_the_other_names(db: Connection) -> None:
    names = [{"channel_type": 2, "channel_id": f"g{n}", "name": "a name"} for n in range(4_000)]
    db.execute(schema.channels.insert(), names)
    wanted = {(2, "g7"): "a name", (2, "g8"): "a name"}
    assert people.channel_names(db, [*wanted, (3, "g9"), (2, "none")]) == wanted
    assert steps(db, lambda: people.channel_names(db, [*wanted, (3, "g9"), (2, "none")])) <= 1


def test_devices_are_counted_in_the_indexes(db: Connection) -> None:
    for number in range(1_000):
        devices.put(db, device(f"u{number}", token=f"token {number}", provider=("ios", "android")[number % 2]))
    devices.drop(db, [Drop("u7", "d1", "android", "token 7", NOW + 1, "BadDeviceToken")], NOW)
    assert devices.count(db) == {"ios": 500, "android": 499}
    assert steps(db, lambda: devices.count(db)) <= 7


def test_what_was_set_aside_lately_is_not_walked_for_what_is_old(db: Connection) -> None:
    put(db, *(b"%d" % n + b" " * 9_000 for n in range(3_000)))
    db.execute(schema.events.update().values(state=schema.FAILED))
    assert steps(db, lambda: inbox.forget_failed(db, NOW, 9)) <= 1
