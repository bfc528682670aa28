from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app import registry
from app.checking import exposed, report
from app.config import load
from app.yamlfile import ConfigError

ROOT = Path(__file__).parents[2]
CONSOLE = "providers: {console: {type: console}}\n"
BROKEN = {
    "providers: {a: {type: pigeon}}\n": "providers.a.type: found 'pigeon'; allowed: apns, console, fcm",
    "providers: {a: {}}\n": "providers.a.type: found nothing; allowed: apns, console, fcm",
    "providers: {a: {type: [apns]}}\n": "providers.a.type: found a list; allowed: apns, console, fcm",
    "providers: {a: {type: kit}}\n": "providers.a.type: found 'kit'; allowed: apns, console, fcm",
    "providers: {a: {type: huawei}}\n": "providers.a.type: 'huawei' is not available yet; allowed: apns, console, fcm",
    "providers: {a: {type: console, x: 1}}\n": "providers.a.x: unknown key; allowed: type",
    "providers: {a: {type: fcm, service_account_file: no.json}}\n": "providers.a.service_account_file: cannot read ",
    "providers: {a: {type: fcm, service_account: '{}'}}\n": "providers.a.service_account_file: found something else",
    "providers: {a: {type: apns, topic: t}}\n": "providers.a.key_file: exactly one of key_file, cert_file and p12",
    "providers: {a: {type: apns, topic: t, key: nonsense, key_id: K, team_id: T}}\n": "providers.a.key_file: found ",
    "providers: {a: {type: apns, topic: t, timeout: 5}}\n": "providers.a.timeout: found 5; allowed: a time above ",
    "providers: {a: {type: apns, topic: t, timeout: 0s}}\n": "providers.a.timeout: found '0s'; allowed: a time above ",
    "providers: {a: {type: apns, topic: t, max_connections: 0}}\n": "providers.a.max_connections: found 0; allowed: ",
    "server: {workers: many}\n" + CONSOLE: "server.workers: found 'many'; allowed: a whole number",
    "storage: {data_dir: config.yaml}\n" + CONSOLE: "storage.data_dir: cannot use ",
    "storage: {data_dir: /proc/inside/data}\n" + CONSOLE: "storage.data_dir: cannot use /proc/inside/data: ",
}


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", BROKEN)
def test_check_on_a_broken_configuration(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    said: list[str] = []
    assert report(path, said.append) == 1
    [error] = [line for line in said if line.startswith("error: ")]
    assert error.startswith(f"error: {path}: {BROKEN[text]}")
    assert "nonsense" not in error
    assert "ok" not in said


def test_check_names_every_broken_provider(tmp_path: Path) -> None:
    path = write(tmp_path, "providers: {a: {type: x}, b: {type: console}, c: {type: y}}\n")
    said: list[str] = []
    assert report(path, said.append) == 1
    assert [line.split(": ")[2] for line in said if line.startswith("error: ")] == [
        "providers.a.type",
        "providers.c.type",
    ]
    assert any(line.startswith("provider b: ") for line in said)
    assert said[-1] == "2 to mend"


def test_check_on_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pushbridge.db").write_text("a note to myself")
    said: list[str] = []
    assert report(write(tmp_path, CONSOLE), said.append) == 1
    [error] = [line for line in said if line.startswith("error: ")]
    assert "storage.data_dir: cannot use " in error
    assert ": pushbridge.db is not a database; allowed: a writable folder" in error


def test_check_on_what_is_right(tmp_path: Path) -> None:
    path = write(tmp_path, "webhook: {allow_from: [any]}\n" + CONSOLE)
    said: list[str] = []
    assert report(path, said.append) == 0
    assert said[-1] == "ok"
    assert any("wukongim.api_url is empty" in line for line in said)
    assert any(line.startswith("warning: webhook: anybody may post") for line in said)
    assert not (tmp_path / "data").exists()


def test_relay_targets_are_named_without_their_secrets(tmp_path: Path) -> None:
    targets = (
        "{url: 'http://10.0.0.9:81/hunter2', secret: hunter2, events: [msg.notify, x]}, {url: 'https://h/?hunter2'}"
    )
    said: list[str] = []
    assert report(write(tmp_path, f"relay: [{targets}]\n" + CONSOLE), said.append) == 0
    relayed = [line for line in said if line.startswith("relay ")]
    assert relayed[0].startswith("relay 10.0.0.9:81/")
    assert relayed[0].endswith(": msg.notify, x, with a secret")
    assert relayed[1].startswith("relay h:443/")
    assert relayed[1].endswith(": all events, without a secret")
    assert "hunter2" not in "".join(said)


def test_no_warning_where_the_server_is_asked_and_the_webhook_is_guarded(tmp_path: Path) -> None:
    guarded = "webhook: {allow_from: [any], secret: hunter2}\nwukongim: {api_url: 'http://127.0.0.1:5001'}\n"
    said: list[str] = []
    path = write(tmp_path, guarded + CONSOLE)
    path.chmod(0o600)
    assert report(path, said.append) == 0
    assert not any(line.startswith("warning") or "hunter2" in line for line in said)


def test_names_of_providers_are_bounded() -> None:
    for name in ("", "x" * 65):
        with pytest.raises(ConfigError, match=r"found a name of \d+ characters; allowed: up to 64"):
            registry.build(name, {"type": "console"}, "f")
    assert registry.build("x" * 64, {"type": "console"}, "f").name == "x" * 64


def run(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from app.cli import main; main()", "--config", str(path), "check"]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_says_it_and_fails(tmp_path: Path) -> None:
    path = write(tmp_path, "server: {workers: many}\n" + CONSOLE)
    done = run(path)
    assert done.returncode == 1
    assert f"{path}: server.workers: found 'many'; allowed: a whole number" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_says_ok(tmp_path: Path) -> None:
    done = run(write(tmp_path, CONSOLE))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "ok"


APNS = "providers: {ios: {type: apns, topic: t, key_id: K, team_id: T, ca_file: ca.pem, key_file: '${KEY:-key.p8}'}}\n"


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        (CONSOLE, []),
        ("webhook: {secret: hunter2}\n" + CONSOLE, ["config.yaml"]),
        ("webhook: {secret: '${S}'}\n" + CONSOLE, []),
        ("webhook: {secret: '${S:-}'}\n" + CONSOLE, []),
        ("webhook: {secret: '${S:-hunter2}'}\n" + CONSOLE, ["config.yaml"]),
        ("webhook: {secret: ''}\n" + CONSOLE, []),
        ("webhook: {secret_file: s}\nadmin: {token_file: s}\n" + CONSOLE, ["s"]),
        ("webhook: {secret_file: '${NONE:-}'}\n" + CONSOLE, []),
        ("wukongim: {api_token: hunter2}\nadmin: {token_file: s}\n" + CONSOLE, ["config.yaml", "s"]),
        (APNS, ["key.p8"]),
        ("providers: {a: {type: fcm, service_account_file: s, proxy: 'http://p'}}\n", ["s"]),
        ("providers: {a: {type: apns, p12_file: s, password: hunter2}}\n", ["config.yaml", "s"]),
        ("providers: {a: {type: '${T:-apns}', p12_file: s, cert_file: 5}}\n", ["s"]),
    ],
)
def test_files_that_others_can_read(tmp_path: Path, text: str, warned: list[str]) -> None:
    files = [write(tmp_path, text), *(tmp_path / name for name in ("s", "key.p8", "ca.pem"))]
    for file in files[1:]:
        file.write_text("x")
    config = load(files[0], {"S": "hunter2"})
    for mode in (0o640, 0o604):
        for file in files:
            file.chmod(mode)
        said = exposed(config, {"S": "hunter2"})
        assert [line.partition(" holds a secret")[0] for line in said] == [str(tmp_path / name) for name in warned]
        assert all(line.endswith(f": chmod 600 {tmp_path / name}") for line, name in zip(said, warned, strict=True))
        assert "hunter2" not in str(said)
    for file in files:
        file.chmod(0o600)
    assert exposed(config, {"S": "hunter2"}) == []


def test_check_warns_of_a_file_that_others_can_read(tmp_path: Path) -> None:
    path = write(tmp_path, "webhook: {secret: hunter2}\n" + CONSOLE)
    path.chmod(0o644)
    said: list[str] = []
    assert report(path, said.append) == 0
    assert f"warning: {path} holds a secret and can be read by others than its owner: chmod 600 {path}" in said
