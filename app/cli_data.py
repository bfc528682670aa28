"""The commands that look into the store and change it: devices, trace, dead-letters, send."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol, get_args

import click
import msgspec

from app import table
from app.admin import devices, figures, importing, reading, testpush, times, tracing
from app.admin.devices import DeviceBody, RestoreBody
from app.admin.fields import Ids
from app.admin.reading import Refused
from app.admin.testpush import TestBody, TestReport
from app.admin.tracing import LettersQuery, TraceQuery
from app.clock import now_ms
from app.intake import Intake
from app.store import devices as device_store
from app.store.dialect import Database, DatabaseError, reason
from app.store.rows import Delivery
from app.store.writer import NotStored


class Tools(Protocol):
    """What the commands work with, given as click's `ctx.obj`."""

    def open_store(self) -> Database:
        """A database that the caller closes."""

    def providers(self) -> Mapping[str, str]:
        """The type by the name of each configured provider."""

    def intake(self, database: Database) -> Intake:
        """The way into this database's inbox."""

    def poke(self) -> None:
        """Tell the dispatcher that there is work."""


class Failure(click.ClickException):
    """Ends a command with one line on stderr and exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"pushbridge: {self.format_message()}", err=True)


class Broken(Failure):
    """What was asked for is right and cannot be done: exit code 1."""

    exit_code = 1


@contextmanager
def _store(tools: Tools) -> Iterator[Database]:
    """The opened store; what is refused inside ends the command."""
    database = tools.open_store()
    try:
        yield database
    except (Refused, NotStored) as error:
        raise Failure(str(error)) from None
    except DatabaseError as error:
        raise Broken(f"the database cannot be used: {reason(error)}") from None
    finally:
        database.close()


def _check(**ids: str) -> None:
    for name, value in ids.items():
        reading.check(name, value, reading.rules(Ids)[name])


def _json(value: Any) -> None:
    click.echo(msgspec.json.encode(value))


@click.group("devices")
def devices_group() -> None:
    """List, register, remove, import and restore devices."""


@devices_group.command("list")
@click.argument("uid", required=False)
@click.option("--provider", help="Only devices of this provider.")
@click.option("--removed", is_flag=True, help="Also those in quarantine: the vendor called their token dead.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_devices(tools: Tools, uid: str | None, provider: str | None, removed: bool, limit: int, as_json: bool) -> None:
    """List the devices of UID, or of everyone. Tokens are masked."""
    with _store(tools) as database, database.read() as connection:
        if uid is None:
            found = device_store.all_of(connection, provider, limit, removed=removed)
        else:
            _check(uid=uid)
            found = device_store.of_users(connection, [uid], removed=removed).get(uid, [])
            found = [device for device in found if provider in (None, device.provider)][:limit]
    if as_json:
        _json({"devices": [devices.shown(device) for device in found]})
        return
    head = ["UID", "DEVICE", "PROVIDER", "TOKEN", "LOCALE", "FLAG", "REGISTERED"]
    rows = [
        [
            d.uid,
            d.device_id,
            d.provider,
            devices.mask(d.token),
            d.locale,
            str(d.device_flag),
            times.local(d.registered_at),
        ]
        for d in found
    ]
    if removed:
        head += ["REMOVED", "REASON"]
        for row, d in zip(rows, found, strict=True):
            row += ["-" if d.removed_at is None else times.local(d.removed_at), d.removed_reason]
    click.echo(table.draw(head, rows) if rows else "no devices")


@devices_group.command("put")
@click.argument("uid")
@click.argument("device_id")
@click.option("--provider", required=True, help="The name of a configured provider.")
@click.option("--token", required=True, help="The token that the phone got from its vendor.")
@click.option("--locale", default="", help="Such as en or zh-Hans-CN.")
@click.option("--device-flag", type=int, default=0, show_default=True, help="0 app, 1 web, 2 PC.")
@click.option("--voip-token", default="")
@click.option("--app-version", default="")
@click.pass_obj
def put_device(tools: Tools, /, uid: str, device_id: str, **given: Any) -> None:
    """Register a device, or renew it. The same token under another user or device moves here."""
    with _store(tools) as database:
        _check(uid=uid, device_id=device_id)
        body = reading.convert(given, DeviceBody)
        ((_, is_new),) = devices.register(database, [devices.make(uid, device_id, body, tools.providers(), now_ms())])
    click.echo("registered" if is_new else "renewed")


@devices_group.command("delete")
@click.argument("uid")
@click.argument("device_id")
@click.pass_obj
def delete_device(tools: Tools, uid: str, device_id: str) -> None:
    """Forget a device, in quarantine or not."""
    with _store(tools) as database:
        _check(uid=uid, device_id=device_id)
        with database.write() as connection:
            if not device_store.remove(connection, uid, device_id):
                raise Refused("the user has no device of that id")
    click.echo("deleted")


@devices_group.command("import")
@click.argument("file", type=click.File("rb"))
@click.pass_obj
def import_devices(tools: Tools, file: BinaryIO) -> None:
    """Register the devices in FILE ("-" is the standard input): one JSON object a line, as the admin API takes it.

    Exit code 1 where a line was passed over.
    """
    with _store(tools) as database:
        result = importing.register_lines(database, importing.lines(file), tools.providers(), now_ms)
    for error in result.errors:
        click.echo(f"line {error.line}: {error.message}", err=True)
    if result.more_errors:
        click.echo(f"and {result.more_errors} more lines", err=True)
    click.echo(f"imported {result.imported}")
    if result.errors:
        raise SystemExit(1)


@devices_group.command("restore")
@click.option("--provider", required=True, help="The name of a configured provider.")
@click.option("--since", required=True, help="An RFC 3339 time, or how long ago, such as 1h.")
@click.pass_obj
def restore_devices(tools: Tools, /, **given: Any) -> None:
    """Take back the devices of a provider that came into quarantine since a time.

    For tokens that were called dead because a setting was wrong.
    """
    with _store(tools) as database:
        body = reading.convert(given, RestoreBody)
        restored = devices.restore(database, body, tools.providers(), now_ms())
    click.echo(f"restored {restored}")


@click.command("trace")
@click.option("--uid", help="Only this user.")
@click.option("--message-id", type=int, help="Only this message.")
@click.option("--outcome", type=click.Choice(get_args(tracing.OutcomeWord)), help="Only this outcome.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--before", help="A time, or the next of an earlier --json.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as the admin API answers it.")
@click.pass_obj
def trace_command(tools: Tools, /, as_json: bool, **given: Any) -> None:
    """Say why a push did or did not arrive, the newest first."""
    with _store(tools) as database:
        query = reading.convert({name: value for name, value in given.items() if value is not None}, TraceQuery)
        rows, following = tracing.trace(database, query)
    if as_json:
        _json(tracing.Trace(records=[tracing.record(row) for row in rows], next=following))
        return
    head = ("AT", "MESSAGE", "UID", "DEVICE", "PROVIDER", "OUTCOME", "REASON", "TRIES", "MS")
    click.echo(_drawn(head, rows) if rows else "no records")


_COLUMNS: Mapping[str, Callable[[Delivery], str]] = {
    "ID": lambda row: str(row.id),
    "AT": lambda row: times.local(row.at),
    "MESSAGE": lambda row: str(row.message_id),
    "UID": lambda row: row.uid,
    "DEVICE": lambda row: row.device_id or "-",
    "PROVIDER": lambda row: row.provider or "-",
    "OUTCOME": lambda row: row.outcome.value,
    "REASON": lambda row: row.reason,
    "TRIES": lambda row: str(row.attempts),
    "MS": lambda row: str(row.latency_ms),
}


def _drawn(head: Sequence[str], rows: Sequence[Delivery]) -> str:
    """`head`: which of _COLUMNS, in which order."""
    return table.draw(head, [[_COLUMNS[name](row) for name in head] for row in rows])


@click.group("dead-letters")
def dead_letters_group() -> None:
    """List pushes that were given up, try them again, or let go of them."""


@dead_letters_group.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--before", type=int, help="The last id of an earlier list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as the admin API answers it.")
@click.pass_obj
def list_letters(tools: Tools, /, as_json: bool, **given: Any) -> None:
    """List dead letters, the newest first."""
    with _store(tools) as database:
        query = reading.convert({name: value for name, value in given.items() if value is not None}, LettersQuery)
        rows, following = tracing.letters(database, query)
    if as_json:
        _json(tracing.Letters(dead_letters=[tracing.letter(row) for row in rows], next=following))
        return
    head = ("ID", "AT", "MESSAGE", "UID", "DEVICE", "PROVIDER", "REASON", "TRIES")
    click.echo(_drawn(head, rows) if rows else "no dead letters")


@dead_letters_group.command("retry")
@click.argument("id", type=click.IntRange(1, 2**63 - 1))
@click.pass_obj
def retry_letter(tools: Tools, id: int) -> None:
    """Try a dead letter again, as if its message had just come."""
    with _store(tools) as database:
        if not tracing.retry(database, id, now_ms()):
            raise Refused("there is no dead letter of that id")
    tools.poke()
    click.echo("tried again")


@dead_letters_group.command("delete")
@click.argument("id", type=click.IntRange(1, 2**63 - 1))
@click.pass_obj
def delete_letter(tools: Tools, id: int) -> None:
    """Let go of a dead letter and its content; its trace stays."""
    with _store(tools) as database:
        if not tracing.forget(database, id):
            raise Refused("there is no dead letter of that id")
    click.echo("deleted")


@click.command("send")
@click.argument("uid")
@click.option("--title", default=TestBody().title, show_default=True)
@click.option("--body", default=TestBody().body, show_default=True)
@click.option(
    "--wait",
    type=click.FloatRange(0, 600),
    default=testpush.PATIENCE,
    show_default=True,
    help="Seconds to wait for the answers.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as the admin API answers it.")
@click.pass_obj
def send_command(tools: Tools, uid: str, title: str, body: str, wait: float, as_json: bool) -> None:
    """Send a test push to each device of UID, and print what became of it. Exit code 1 where none was sent."""
    with _store(tools) as database:
        _check(uid=uid)
        push = reading.convert({"title": title, "body": body}, TestBody)
        if not figures.dispatcher_runs(database, now_ms()):
            click.echo("no dispatcher runs: the push waits until one does", err=True)
        report = testpush.send(database, tools.intake(database), uid, push, wait)
        if report is None:
            raise Refused("the user has no device")
    if as_json:
        _json(report)
    else:
        _print_report(report)
    if not any(result.outcome == "sent" for result in report.results):
        raise SystemExit(1)


def _print_report(report: TestReport) -> None:
    head = ("DEVICE", "PROVIDER", "OUTCOME", "REASON", "PROVIDER ID", "MS")
    rows = [(r.device_id, r.provider, r.outcome, r.reason, r.provider_id, str(r.latency_ms)) for r in report.results]
    click.echo(table.draw(head, rows))
    if not report.complete:
        click.echo(f"not all have an answer yet; see: pushbridge trace --message-id {report.message_id}", err=True)


COMMANDS: tuple[click.Command, ...] = (devices_group, trace_command, dead_letters_group, send_command)
"""To be added to the main group."""
