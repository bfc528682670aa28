"""The commands that look into the store and change it, run in this process over a real SQLite store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from app import cli_data
from app.clock import now_ms
from app.intake import Intake
from app.intake import TestPush as Pushed
from app.model import Outcome
from app.store import deliveries, devices, health, inbox
from app.store.dialect import Database
from app.store.opening import open_database
from app.store.rows import Delivery, Drop, Health
from app.store.writer import GroupCommit

AT = 1_700_000_000_000


class Tools:
    """The commands' tools. on_poke: what a dispatcher does when it is poked, with the database that is open then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.pokes = 0
        self.on_poke: Callable[[Database], None] = lambda _database: None

    def open_store(self) -> Database:
        return open_database(self._folder, durability="normal")

    def providers(self) -> Mapping[str, str]:
        return {"console": "console", "ios": "apns"}

    def intake(self, database: Database) -> Intake:
        def poke() -> None:
            self.poke()
            self.on_poke(database)

        return Intake(GroupCommit(database), poke)

    def poke(self) -> None:
        self.pokes += 1


class Cli:
    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self.database = tools.open_store()
        self._commands = {command.name: command for command in cli_data.COMMANDS}

    def run(self, *arguments: str, stdin: bytes = b"") -> Result:
        name, *rest = arguments
        return CliRunner().invoke(self._commands[name], rest, input=stdin, obj=self.tools)

    def ok(self, *arguments: str, stdin: bytes = b"") -> str:
        """What a command that succeeds prints."""
        result = self.run(*arguments, stdin=stdin)
        assert (result.exit_code, result.stderr) == (0, ""), result.output
        return result.stdout

    def fails(self, *arguments: str) -> str:
        """The one line of a command that is refused."""
        result = self.run(*arguments)
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        (line,) = result.stderr.splitlines()
        assert line.startswith("pushbridge: ")
        return line

    def put(self, uid: str = "u", device_id: str = "d", token: str = "t" * 30, *more: str) -> str:
        return self.ok("devices", "put", uid, device_id, "--provider", "console", "--token", token, *more)

    def keep(self, *rows: Delivery) -> None:
        with self.database.write() as connection:
            deliveries.insert_new(connection, rows)


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(Tools(tmp_path))
    yield cli
    cli.database.close()


def test_put_list_delete(cli: Cli) -> None:
    assert cli.ok("devices", "list") == "no devices\n"
    assert cli.put("ann", "phone", "t" * 30, "--locale", "zh-Hans", "--device-flag", "2") == "registered\n"
    assert cli.put("ann", "phone", "t" * 30) == "renewed\n"
    cli.put("群/\x1b[2J" + "x" * 100, "pad", "q" * 30)
    head, first, second = cli.ok("devices", "list").splitlines()
    assert head.split() == ["UID", "DEVICE", "PROVIDER", "TOKEN", "LOCALE", "FLAG", "REGISTERED"]
    assert first.split()[:4] == ["ann", "phone", "console", "tttt…tttt"]
    assert second.startswith("群/\\x1b[2Jxxx")
    assert "\x1b" not in second
    # The wide character takes two columns, and the long id is cut.
    assert second.index("…") + 1 == head.index("DEVICE") - 3
    assert len(cli.ok("devices", "list", "ann").splitlines()) == 2
    assert cli.ok("devices", "list", "ann", "--provider", "ios") == "no devices\n"
    (shown,) = json.loads(cli.ok("devices", "list", "ann", "--json"))["devices"]
    assert (shown["uid"], shown["token"], shown["locale"]) == ("ann", "tttt…tttt", "")
    assert cli.ok("devices", "delete", "ann", "phone") == "deleted\n"
    assert "no device" in cli.fails("devices", "delete", "ann", "phone")


def test_quarantine(cli: Cli) -> None:
    cli.put("ann", "phone", "t" * 30)
    cli.put("ann", "pad", "q" * 30)
    with cli.database.write() as connection:
        gone = Drop("ann", "phone", "console", "t" * 30, now_ms() + 1, "Unregistered")
        devices.drop(connection, [gone], now_ms())
    for who in ([], ["ann"]):
        assert len(cli.ok("devices", "list", *who).splitlines()) == 2
        head, pad, phone = cli.ok("devices", "list", *who, "--removed").splitlines()
        assert head.split()[-2:] == ["REMOVED", "REASON"]
        assert pad.split()[-1] == "-"
        assert phone.split()[-1] == "Unregistered"
    shown = json.loads(cli.ok("devices", "list", "--removed", "--json"))["devices"]
    assert [each.get("removed_reason") for each in shown] == [None, "Unregistered"]
    assert "allowed: console, ios" in cli.fails("devices", "restore", "--provider", "nobody", "--since", "1h")
    assert "RFC 3339" in cli.fails("devices", "restore", "--provider", "console", "--since", "noon")
    assert cli.ok("devices", "restore", "--provider", "ios", "--since", "1h") == "restored 0\n"
    assert cli.ok("devices", "restore", "--provider", "console", "--since", "1h") == "restored 1\n"
    assert len(cli.ok("devices", "list").splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["put", "u", "d", "--provider", "nobody", "--token", "t"], "allowed: console, ios"),
        (["put", "u", "d", "--provider", "ios", "--token", "xyz"], "hexadecimal"),
        (["put", "u", "d", "--provider", "console", "--token", ""], "token"),
        (["put", "u", "d", "--provider", "console", "--token", "t", "--device-flag", "256"], "0 to 255"),
        (["put", "", "d", "--provider", "console", "--token", "t"], "uid"),
        (["put", "u", "é" * 121, "--provider", "console", "--token", "t"], "device_id"),
        (["put", "\udcff", "d", "--provider", "console", "--token", "t"], "uid"),
        (["list", ""], "uid"),
        (["delete", "u", ""], "device_id"),
    ],
)
def test_what_the_api_refuses_is_refused_here(cli: Cli, arguments: list[str], word: str) -> None:
    assert word in cli.fails("devices", *arguments)
    assert cli.ok("devices", "list") == "no devices\n"


def line(number: int) -> bytes:
    fields = {"uid": f"u{number}", "device_id": "d", "provider": "console", "token": f"token {number}"}
    return msgspec.json.encode(fields) + b"\n"


def test_import(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "devices.ndjson"
    file.write_bytes(line(1) + b"\n" + line(2))
    assert cli.ok("devices", "import", str(file)) == "imported 2\n"
    assert cli.ok("devices", "import", "-", stdin=line(3)) == "imported 1\n"
    result = cli.run("devices", "import", "-", stdin=line(4) + b"nonsense\n" + line(5))
    assert (result.exit_code, result.stdout) == (1, "imported 2\n")
    assert result.stderr.startswith("line 2: body: ")
    assert len(cli.ok("devices", "list").splitlines()) == 6
    assert "found nothing" in cli.fails("devices", "import", "-")


def row(number: int, outcome: Outcome = Outcome.SENT, event_id: int | None = None, reason: str = "") -> Delivery:
    return Delivery(
        message_id=2**60 + number,
        uid=f"u{number}",
        device_id="d",
        provider="console",
        outcome=outcome,
        reason=reason,
        first_at=AT,
        at=AT + number,
        event_id=event_id,
    )


def test_trace(cli: Cli) -> None:
    assert cli.ok("trace") == "no records\n"
    cli.keep(row(1), row(2, Outcome.SKIPPED, reason="no_device"), row(3))
    head, *lines = cli.ok("trace").splitlines()
    assert head.split() == ["AT", "MESSAGE", "UID", "DEVICE", "PROVIDER", "OUTCOME", "REASON", "TRIES", "MS"]
    assert [each.split()[2] for each in lines] == ["u3", "u2", "u1"]
    assert {each.index(str(2**60)[:8]) for each in lines} == {head.index("MESSAGE")}
    assert len(cli.ok("trace", "--uid", "u2").splitlines()) == 2
    assert "no_device" in cli.ok("trace", "--outcome", "skipped")
    assert "u3" in cli.ok("trace", "--message-id", str(2**60 + 3))
    answer = json.loads(cli.ok("trace", "--json", "--limit", "2"))
    assert [record["uid"] for record in answer["records"]] == ["u3", "u2"]
    rest = json.loads(cli.ok("trace", "--json", "--before", answer["next"]))
    assert [record["uid"] for record in rest["records"]] == ["u1"]
    assert "RFC 3339" in cli.fails("trace", "--before", "noon")
    assert "message_id" in cli.fails("trace", "--message-id", "0")
    assert cli.run("trace", "--outcome", "lost").exit_code == 2


def test_dead_letters(cli: Cli) -> None:
    assert cli.ok("dead-letters", "list") == "no dead letters\n"
    cli.keep(row(1, Outcome.DEAD, 1, "gave up"), row(2, Outcome.DEAD, 1, "gave up"))
    ids = [letter["id"] for letter in json.loads(cli.ok("dead-letters", "list", "--json"))["dead_letters"]]
    assert [each.split()[0] for each in cli.ok("dead-letters", "list").splitlines()[1:]] == [str(id) for id in ids]
    assert cli.ok("dead-letters", "retry", str(ids[0])) == "tried again\n"
    assert cli.tools.pokes == 1
    assert cli.ok("dead-letters", "delete", str(ids[1])) == "deleted\n"
    for command in ("retry", "delete"):
        assert "no dead letter" in cli.fails("dead-letters", command, str(ids[1]))
    assert cli.tools.pokes == 1


def settled(outcome: Outcome) -> Callable[[Database], None]:
    """A dispatcher that gives every test push this outcome."""

    def work(database: Database) -> None:
        with database.write() as connection:
            for event in inbox.waiting(connection, "now", 10, 10)[0]:
                push = msgspec.json.decode(event.body, type=Pushed)
                made = row(0, outcome, reason="said so")
                row_of_push = msgspec.structs.replace(made, message_id=push.message_id, uid=push.uid)
                deliveries.insert_new(connection, [row_of_push])

    return work


def beat(cli: Cli) -> None:
    with cli.database.write() as connection:
        health.beat(connection, Health("host/0", now_ms(), "{}"))


def test_send(cli: Cli) -> None:
    cli.put()
    beat(cli)
    cli.tools.on_poke = settled(Outcome.SENT)
    head, only = cli.ok("send", "u").splitlines()
    assert head.split()[:4] == ["DEVICE", "PROVIDER", "OUTCOME", "REASON"]
    assert only.split()[:3] == ["d", "console", "sent"]
    answer = json.loads(cli.ok("send", "u", "--title", "Hi", "--json"))
    assert answer["complete"]


def test_send_where_none_is_sent(cli: Cli) -> None:
    cli.put()
    beat(cli)
    cli.tools.on_poke = settled(Outcome.REJECTED)
    result = cli.run("send", "u")
    assert (result.exit_code, result.stderr) == (1, "")
    assert "rejected" in result.stdout


def test_send_says_that_no_dispatcher_runs(cli: Cli) -> None:
    cli.put()
    result = cli.run("send", "u", "--wait", "0")
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()
    assert "no dispatcher" in first
    assert "pushbridge trace --message-id" in second
    assert "queued" in result.stdout


def test_send_refuses(cli: Cli) -> None:
    beat(cli)
    assert "no device" in cli.fails("send", "u")
    assert "title" in cli.fails("send", "u", "--title", "a\nb")
    assert cli.tools.pokes == 0


@pytest.mark.parametrize("command", cli_data.COMMANDS, ids=lambda command: command.name)
def test_help(command: object, cli: Cli) -> None:
    assert "Usage:" in cli.ok(command.name, "--help")  # type: ignore[attr-defined]


def test_a_database_that_fails_meanwhile_is_one_line(cli: Cli) -> None:
    with cli.database.write() as connection:
        connection.exec_driver_sql("CREATE TRIGGER no BEFORE INSERT ON devices BEGIN SELECT RAISE(ABORT, 'full'); END")
    result = cli.run("devices", "put", "u", "d", "--provider", "console", "--token", "the-token")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "pushbridge: the database cannot be used: full\n"
