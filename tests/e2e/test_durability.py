"""What a power cut leaves: the web worker's system calls say what had reached the disk when a 200 left."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import Struct, field

from app.demo.standin import StandinProcess
from tests.e2e.service import Service, offline, until

POSTERS, EACH = 4, 20
FILES = ("pushbridge.db", "pushbridge.db-wal")
TEXT = "x" * 60_000
"""Twenty pages of the write-ahead log for each event: at every thousand SQLite clears it into the database."""

CALLS = "pwrite64,ftruncate,unlink,fsync,fdatasync,recvfrom,sendto,sendmsg"
STRACE = ("strace", "-f", "--seccomp-bpf", "-yy", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-e", "signal=none")


class Call(Struct):
    """One system call. begun, ended: its places in the order of events. file: the path, or the two ends of a socket."""

    name: str
    file: str
    data: bytes
    numbers: list[int]
    begun: int
    ended: int = 0


def calls(lines: Iterator[str]) -> list[Call]:
    """What strace wrote, in the order in which the calls began; those that failed or never ended are left out."""
    open_calls: dict[str, tuple[int, str]] = {}
    found = []
    for place, line in enumerate(lines):
        pid, _, text = line.rstrip("\n").partition(" ")
        text = text.strip()
        begun = place
        if text.endswith("<unfinished ...>"):
            open_calls[pid] = place, text.removesuffix("<unfinished ...>")
            continue
        if text.startswith("<..."):
            begun, start = open_calls.pop(pid)
            text = start + text.partition("resumed>")[2]
        whole = CALL.fullmatch(text)
        if whole:
            name, arguments, result = whole.groups()
            texts = [unescaped(part) for part in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)]
            target = re.match(r"\d+<(.*?)>(?:,|\s*$)", arguments)
            path = unescaped(target[1]).decode() if target else texts[0].decode()
            numbers = [int(number) for number in re.findall(r", (\d+)\s*(?=,|$)", arguments)]
            if int(result) >= 0:
                found.append(Call(name, path, texts[0] if target and texts else b"", numbers, begun, place))
    return sorted(found, key=lambda call: call.begun)


CALL = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+).*")


def unescaped(text: str) -> bytes:
    """Files and contents are written as escapes all through, the ends of a socket as they are."""
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()


class Disk(Struct):
    """Files as they would be found after a power cut: what was written and not synced is gone."""

    files: defaultdict[str, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    written: defaultdict[str, list[Call]] = field(default_factory=lambda: defaultdict(list))

    def take(self, call: Call, synced: bool) -> None:
        """`synced`: whether to believe that a write is on the disk only once the file was synced after it."""
        if Path(call.file).name not in FILES:
            return
        if call.name == "unlink":
            self.files.pop(call.file, None)
            self.written.pop(call.file, None)
        elif call.name in ("pwrite64", "ftruncate"):
            self.written[call.file].append(call)
            if not synced:
                self._apply(call.file, call.ended)
        elif call.name in ("fsync", "fdatasync"):
            self._apply(call.file, call.begun)

    def _apply(self, path: str, until: int) -> None:
        for call in self.written[path]:
            if call.ended <= until:
                self._change(self.files[path], call)
        self.written[path] = [call for call in self.written[path] if call.ended > until]

    def _change(self, file: bytearray, call: Call) -> None:
        if call.name == "ftruncate":
            del file[call.numbers[-1] :]
            return
        start = call.numbers[-1]
        file.extend(bytes(max(0, start + len(call.data) - len(file))))
        file[start : start + len(call.data)] = call.data


class Answered(Struct):
    """One 200: when it began to leave, and the message it is about."""

    at: int
    message_id: str


def answered(found: list[Call]) -> list[Answered]:
    """A request and its answer go over the same connection."""
    asked: defaultdict[str, bytes] = defaultdict(bytes)
    answers = []
    for call in found:
        if call.name == "recvfrom":
            asked[call.file] += call.data
        elif call.name in ("sendto", "sendmsg"):
            request = asked.pop(call.file, b"")
            named = re.search(rb'"message_idstr": "(\d+)"', request)
            if named and call.data.startswith(b"HTTP/1.1 200 "):
                answers.append(Answered(call.begun, named[1].decode()))
    return answers


def is_ordered(found: list[Call], answer: Answered) -> bool:
    """Whether the log was synced after the event was written to it, and before the answer left."""
    wal = [call for call in found if call.file.endswith("pushbridge.db-wal") and call.ended < answer.at]
    written = [call.ended for call in wal if call.name == "pwrite64" and answer.message_id.encode() in call.data]
    return bool(written) and any(call.name in ("fsync", "fdatasync") and call.begun > written[0] for call in wal)


def survives(disk: Disk, answer: Answered, folder: Path) -> bool:
    """Whether a database made of what is on the disk holds the event."""
    for path, content in disk.files.items():
        (folder / Path(path).name).write_bytes(content)
    with closing(sqlite3.connect(folder / "pushbridge.db")) as database:
        try:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            bodies = database.execute("SELECT body FROM events").fetchall()
        except sqlite3.OperationalError:  # not even the tables are there
            return False
    return any(answer.message_id.encode() in body for (body,) in bodies)


def post_all(service: Service) -> list[str]:
    """Post from several threads at once, so that commits are shared; the message ids."""
    shares = [[offline([f"u{poster}"], text=TEXT) for _ in range(EACH)] for poster in range(POSTERS)]
    results: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda share=share: results.append(service.webhooks("msg.offline", share)))
        for share in shares
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[200] * EACH] * POSTERS
    return [body["message_idstr"] for share in shares for body in share]


@pytest.fixture
def traced(tmp_path: Path, standin: StandinProcess) -> Iterator[Callable[[str], Service]]:
    """Starts a service under strace, its calls in `trace` beside its output; nothing of it is left behind."""
    services = []

    def begin(durability: str) -> Service:
        service = Service(
            tmp_path,
            standin,
            ready="/healthz",
            under=(*STRACE, "-o", str(tmp_path / "trace")),
            storage={"durability": durability},
            dispatcher={"embedded": False},
        )
        services.append(service)
        return service.start()

    yield begin
    for service in services:
        service.kill()


@pytest.mark.soak
@pytest.mark.parametrize("durability", ["full", "normal"])
def test_no_200_leaves_before_its_event_is_on_the_disk(
    traced: Callable[[str], Service], durability: str, soak: bool, tmp_path: Path
) -> None:
    if not soak:
        pytest.skip("has a long form only")
    service = traced(durability)
    posted = post_all(service)

    def seen() -> list[Call]:
        with (tmp_path / "trace").open() as lines:
            return calls(lines)

    until(lambda: len(answered(seen())) == len(posted), "the trace has every answer")
    service.kill()
    found = seen()
    answers = answered(found)
    assert sorted(answer.message_id for answer in answers) == sorted(posted)
    check_the_trace_saw_everything(found, service.data)
    assert sum(call.name == "pwrite64" and call.file.endswith("pushbridge.db") for call in found), "never cleared"
    lost = [answer.message_id for answer in answers if not is_ordered(found, answer)]
    gone = restored_without(found, answers, tmp_path / "restored")
    if durability == "full":
        assert lost == []
        assert gone == []
    else:
        # What `normal` does not promise; were this not seen, neither would be a fault of `full`.
        assert lost
        assert gone


def restored_without(found: list[Call], answers: list[Answered], folder: Path) -> list[str]:
    """Cut the power as each answer leaves; the messages that are not there afterwards."""
    disk, gone = Disk(), []
    events = sorted([*found, *answers], key=lambda event: event.at if isinstance(event, Answered) else event.ended)
    for number, event in enumerate(events):
        if isinstance(event, Call):
            disk.take(event, synced=True)
            continue
        place = folder / str(number)
        place.mkdir(parents=True)
        if not survives(disk, event, place):
            gone.append(event.message_id)
    return gone


def check_the_trace_saw_everything(found: list[Call], data: Path) -> None:
    """All that it wrote, put together, is what the files are."""
    disk = Disk()
    for call in sorted(found, key=lambda call: call.ended):
        disk.take(call, synced=False)
    for name in FILES:
        assert disk.files[str(data / name)] == (data / name).read_bytes()
