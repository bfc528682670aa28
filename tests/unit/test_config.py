from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from app import config as configuration
from app import words
from app.config import LATER, Config, load, networks, payload_types, relay_targets
from app.yamlfile import ConfigError
from providers.kit.values import Duration, Period, PeriodOrOff, Secret, Size

SHIPPED = Path(__file__).parents[2] / "config.yaml"
CONSOLE = "providers: {console: {type: console}}\n"


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def fault(folder: Path, text: str | bytes, environ: dict[str, str] | None = None) -> str:
    """What is said about the file, without its name, which every message begins with."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said.removeprefix(f"{path}: ")


def good(folder: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    return load(write(folder, text), environ or {})


def test_every_default_in_the_shipped_file_is_the_codes() -> None:
    shipped = load(SHIPPED, {})
    bare = configuration._with_words(Config().notification)
    for field in msgspec.structs.fields(Config):
        if field.name in {"providers", "path", "written"}:
            continue
        if field.name == "relay":
            assert shipped.relay == Config().relay
            continue
        default = bare if field.name == "notification" else field.default
        found = getattr(shipped, field.name)
        for part in msgspec.structs.fields(type(found)):
            ours, theirs = getattr(found, part.name), getattr(default, part.name)
            if isinstance(ours, Secret):
                ours, theirs = ours.raw, theirs.raw
            assert ours == theirs, f"{field.name}.{part.name}"


def test_the_shipped_file_has_every_key() -> None:
    raw = yaml.safe_load(SHIPPED.read_text())
    assert raw["relay"] == []
    for field in msgspec.structs.fields(Config):
        if field.name in {"providers", "path", "written", "relay"}:
            continue
        assert raw[field.name].keys() == {
            part.name for part in msgspec.structs.fields(field.type) if f"{field.name}.{part.name}" not in LATER
        }


def test_the_shipped_words_are_the_codes() -> None:
    raw = yaml.safe_load(SHIPPED.read_text())["notification"]
    assert raw["types"] == words.TYPES
    assert raw["templates"] == words.TEMPLATES


BROKEN: list[tuple[str, str]] = [
    ("server: {bin: x}\n", "server.bin: unknown key; allowed: bind, threads, trusted_proxies, workers"),
    (
        "webhook: {secrets: x}\n",
        "webhook.secrets: unknown key; allowed: allow_from, grpc_bind, max_body, secret, secret_file",
    ),
    ("server: {workers: many}\n", "server.workers: found 'many'; allowed: a whole number"),
    ("server: {workers: 0}\n", "server.workers: found 0; allowed: a whole number >= 1"),
    ("server: {threads: 1}\n", "server.threads: found 1; allowed: a whole number >= 2"),
    ("server: {workers: 65}\n", "server.workers: found 65; allowed: a whole number <= 64"),
    ("server: []\n", "server: found a list; allowed: a section"),
    ("server: {bind: 8000}\n", "server.bind: found 8000; allowed: a text (in quotes)"),
    ("server: {bind: localhost}\n", "server.bind: found 'localhost'; allowed: HOST:PORT or unix:PATH"),
    (
        "retry: {max_age: 24}\n",
        "retry.max_age: found 24; allowed: a time above zero, such as 500ms, 3s, 10m, 24h or 7d",
    ),
    ("presence: {hold: 1 h}\n", "presence.hold: found '1 h'; allowed: a time such as 500ms, 3s, 10m, 24h or 7d"),
    (
        "retry: {max_age: 0s}\n",
        "retry.max_age: found '0s'; allowed: a time above zero, such as 500ms, 3s, 10m, 24h or 7d",
    ),
    (
        "retry: {first_delay: 0ms}\n",
        "retry.first_delay: found '0ms'; allowed: a time above zero, such as 500ms, 3s, 10m, 24h or 7d",
    ),
    (
        "retry: {max_delay: 00d}\n",
        "retry.max_delay: found '00d'; allowed: a time above zero, such as 500ms, 3s, 10m, 24h or 7d",
    ),
    ("rescue: {channels: group}\n", "rescue.channels: found 'group'; allowed: person, none"),
    ("rescue: {after: soon}\n", "rescue.after: found 'soon'; allowed: a time such as 500ms, 3s, 10m, 24h or 7d"),
    (
        "devices: {stale_after: 0d}\n",
        "devices.stale_after: found '0d'; allowed: off, or a time above zero, such as 12h or 90d",
    ),
    (
        "devices: {stale_after: on}\n",
        "devices.stale_after: found true; allowed: off, or a time above zero, such as 12h or 90d",
    ),
    ("devices: {stale: 90d}\n", "devices.stale: unknown key; allowed: quarantine, stale_after"),
    (
        "webhook: {max_body: 0B}\n",
        "webhook.max_body: found '0B'; allowed: a size above zero, such as 512B, 64KiB or 8MiB",
    ),
    (
        "webhook: {allow_from: []}\n",
        "webhook.allow_from: found an empty list; allowed: loopback, private, any, or a CIDR such as 10.1.0.0/16",
    ),
    (
        "server: {bind: '1.2.3.4:1'}\nadmin: {token: 'a\x07b'}\n",
        "line 2, column 18: no valid YAML: found the character U+0007; allowed: text",
    ),
    (
        "webhook: {max_body: 8MB}\n",
        "webhook.max_body: found '8MB'; allowed: a size above zero, such as 512B, 64KiB or 8MiB",
    ),
    ("presence: {suppress: all}\n", "presence.suppress: found 'all'; allowed: any, app, none"),
    ("storage: {durability: none}\n", "storage.durability: found 'none'; allowed: full, normal"),
    ("dispatcher: {embedded: 2}\n", "dispatcher.embedded: found 2; allowed: true or false"),
    *(
        (
            f"wukongim: {{api_url: '{url}'}}\n",
            f"wukongim.api_url: found {found or repr(url)}; allowed: a URL such as http://127.0.0.1:5001, "
            "without user, query and fragment",
        )
        for url, found in (
            ("localhost:5001", ""),
            ("ftp://h", ""),
            ("http://300.1.1.1", ""),
            ("http://h:99999", ""),
            ("http:///x", ""),
            ("http://h/a b", ""),
            ("http://h:1/?a=hunter2", "something else"),
            ("http://u:hunter2@h", "something else"),
            ("http://h/#hunter2", "something else"),
        )
    ),
    (
        "notification: {locale: fr}\n",
        "notification.locale: found 'fr'; allowed: one that notification.templates has (en, zh)",
    ),
    (
        "notification: {templates: {fr: {default: x}}}\n",
        "notification.templates.fr.hidden: missing; allowed: a text",
    ),
    (
        "notification: {templates: {en: {text: '{sender}'}}}\n",
        "notification.templates.en.text: found the placeholder {sender}; allowed: {content}",
    ),
    (
        "notification: {templates: {en: {group: '{content}'}}}\n",
        "notification.templates.en.group: found the placeholder {content}; allowed: {sender}, {text}",
    ),
    (
        "notification: {templates: {en: {group: '{sender:>9} {text}'}}}\n",
        "notification.templates.en.group: found the placeholder {sender:>9}; allowed: {sender}, {text}",
    ),
    (
        "notification: {templates: {en: {group: '{sender!x} {text}'}}}\n",
        "notification.templates.en.group: found the placeholder {sender!x}; allowed: {sender}, {text}",
    ),
    (
        "notification: {templates: {en: {hidden: '{content}'}}}\n",
        "notification.templates.en.hidden: found the placeholder {content}; allowed: none",
    ),
    (
        "notification: {templates: {zh: {text: 5}}}\n",
        "notification.templates.zh.text: found 5; allowed: a text (in quotes)",
    ),
    ("notification: {templates: {en: {}, zh: 5}}\n", "notification.templates.zh: found 5; allowed: a section"),
    ("notification: {types: {'1': text, '2': 5}}\n", "notification.types.2: found 5; allowed: a text (in quotes)"),
    ("webhook: {allow_from: [any, 5]}\n", "webhook.allow_from[1]: found 5; allowed: a text (in quotes)"),
    *(
        (f"server: {{bind: '{bind}'}}\n", f"server.bind: found '{bind}'; allowed: HOST:PORT or unix:PATH")
        for bind in ("[::::]:80", "[1.2.3.4]:80", "300.1.1.1:80", "127.1:80")
    ),
    ("server: {bind: '127.0.0.1:65536'}\n", "server.bind: found '127.0.0.1:65536'; allowed: HOST:PORT or unix:PATH"),
    (
        "path: elsewhere\n",
        "path: unknown key; allowed: admin, devices, dispatcher, notification, presence, providers, relay, rescue, "
        "retry, server, storage, trace, webhook, wukongim",
    ),
    (
        "written: {}\n",
        "written: unknown key; allowed: admin, devices, dispatcher, notification, presence, providers, "
        "relay, rescue, retry, server, storage, trace, webhook, wukongim",
    ),
    *(
        (
            f"server: {{workers: {value}}}\n",
            "line 1, column 19: no valid YAML: found a number or a date that there cannot be; allowed: such a text in "
            "quotes",
        )
        for value in ("1" * 5_000, "0x" + "f" * 5_000, "2026-99-99", "!!int ''", "!!timestamp x")
    ),
    (
        f"server: {'[' * 3_000}{']' * 3_000}\n",
        "no valid YAML: found hundreds of brackets in one another; allowed: a few",
    ),
    (
        "admin: {token: *hunter2}\n",
        "line 1, column 16: no valid YAML: found a text that begins with *; allowed: such a text in quotes",
    ),
    (
        "admin: {token: !hunter2 x}\n",
        "line 1, column 16: no valid YAML: found a text that begins with !; allowed: such a text in quotes",
    ),
    (
        "notification: {types: {x: text}}\n",
        "notification.types.x: found 'x'; allowed: a payload type or a range such as 1000-1022",
    ),
    (
        "notification: {types: {'9-1': text}}\n",
        "notification.types.9-1: found '9-1'; allowed: a payload type or a range such as 1000-1022",
    ),
    (
        "storage: {url: 'postgresql+psycopg://me:pw@db/x'}\n",
        "storage.url: databases other than SQLite: not available yet; leave it empty",
    ),
    *(
        (
            f"trace: {{retention: {found}}}\n{more}",
            f"trace.retention: found {said}; allowed: at least 1h, and twice rescue.after and presence.hold",
        )
        for found, said, more in (
            ("0s", "0s", ""),
            ("59m", "3540s", ""),
            ("3h", "10800s", "rescue: {after: 2h}\n"),
            ("3h", "10800s", "presence: {hold: 91m}\n"),
        )
    ),
    ("relay: {}\n", "relay: found a section; allowed: a list"),
    ("relay: [http]\n", "relay[0]: found 'http'; allowed: a section"),
    ("relay: [{}]\n", "relay[0].url: missing; allowed: a text, or url_file with a file's name"),
    ("relay: [{url: 5}]\n", "relay[0].url: found no text; allowed: a text in quotes"),
    (
        "relay: [{url: 'http://a'}, {url: 'http://b', event: x}]\n",
        "relay[1].event: unknown key; "
        "allowed: events, max_age, max_backlog, secret, secret_file, timeout, url, url_file",
    ),
    (
        "relay: [{url: 'http://a', timeout: 0s}]\n",
        "relay[0].timeout: found '0s'; allowed: a time above zero, such as 500ms, 3s, 10m, 24h or 7d",
    ),
    (
        "relay: [{url: 'http://a', events: msg.offline}]\n",
        "relay[0].events: found 'msg.offline'; allowed: a list or nothing",
    ),
    ("relay: [{url: 'http://a', events: [x, 5]}]\n", "relay[0].events[1]: found 5; allowed: a text (in quotes)"),
    (
        "relay: [{url: 'http://a', events: []}]\n",
        "relay[0].events: found an empty list; allowed: names such as msg.offline; without the key all events",
    ),
    (
        "relay: [{url: 'http://a', events: [x, '']}]\n",
        "relay[0].events[1]: found ''; allowed: 1 to 128 printable characters",
    ),
    (
        "relay: [{url: 'http://b'}, {url: 'http://a', secret: s}, {url: 'http://a'}]\n",
        "relay[2].url: the same as relay[1].url; allowed: each once",
    ),
    (f"relay: [{'{url: x}, ' * 17}]\n", "relay: found 17 targets; allowed: up to 16"),
    ("providers: []\n", "providers: found a list; allowed: blocks such as console: {type: console}"),
    ("providers: {a: x}\n", "providers: found a section; allowed: blocks such as console: {type: console}"),
    ("providers: {}\n", "providers: found none; allowed: at least one block such as console: {type: console}"),
    ("", "providers: found none; allowed: at least one block such as console: {type: console}"),
    ("- a\n", "found a list; allowed: sections such as server: and providers:"),
    (
        "server: ${BIND}\n",
        "server: the environment has no BIND, or an empty one; allowed: set it, or write ${BIND:-default}",
    ),
    (
        "webhook: {allow_from: [loopback, '${NET}']}\n",
        "webhook.allow_from[1]: the environment has no NET, or an empty one; allowed: set it, or write ${NET:-default}",
    ),
]


@pytest.mark.parametrize(("text", "said"), BROKEN)
def test_what_is_said_of_a_broken_file(tmp_path: Path, text: str, said: str) -> None:
    whole = text if "providers" in text or said.startswith(("providers", "found")) else text + CONSOLE
    assert fault(tmp_path, whole) == said


@pytest.mark.parametrize(
    ("text", "begin"),
    [
        ("server:\n  workers: 1\n  workers: 2\n", "line 3, column 3: no valid YAML: key 'workers' is given twice"),
        ("server: {a: 1}\nserver: {b: 1}\n", "line 2, column 1: no valid YAML: key 'server' is given twice"),
        ("notification: {types: {1: text, '1': skip}}\n", "line 1, column 33: no valid YAML: key '1' is given twice"),
        ("server: {<<: &a {threads: 2}, <<: *a}\n", "line 1, column 31: no valid YAML: key '<<' is given twice"),
        ("server: {<<: 5}\n", "line 1, column 14: no valid YAML: expected a mapping or list of mappings for merging"),
        ("server: [\n", "line 3, column 1: no valid YAML: "),
        ("a: !!python/object:os.system {}\n", "line 1, column 4: no valid YAML: "),
        ("webhook: {allow_from: [loopback, 10.0.0.1/8]}\n", "webhook.allow_from[1]: found '10.0.0.1/8' ("),
        ("server: {trusted_proxies: [nginx]}\n", "server.trusted_proxies[0]: found 'nginx' ("),
        ("notification: {types: {'1': nothing}}\n", "notification.types.1: found 'nothing'; allowed: call, card, "),
        ("notification: {templates: {en: {text: '{'}}}\n", "notification.templates.en.text: found a single brace; "),
        ("unknown: 1\n", "unknown: unknown key; allowed: admin, devices, dispatcher, notification, "),
    ],
)
def test_what_is_said_first_of_a_broken_file(tmp_path: Path, text: str, begin: str) -> None:
    assert fault(tmp_path, text + CONSOLE).startswith(begin)


def test_unreadable_files(tmp_path: Path) -> None:
    assert fault(tmp_path, b"\xff\xfe\xff") == "cannot be read: no UTF-8 text"
    with pytest.raises(ConfigError, match=r"none\.yaml: found no such file; allowed: .*PUSHBRIDGE_CONFIG"):
        load(tmp_path / "none.yaml", {})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, {})


@pytest.mark.parametrize("key", sorted(LATER))
def test_what_is_not_there_yet_is_refused_unless_empty(tmp_path: Path, key: str) -> None:
    section, _, name = key.rpartition(".")

    def document(value: Any) -> str:
        block = {name: value}
        return yaml.safe_dump({**({section: block} if section else block), "providers": {"c": {"type": "console"}}})

    for value in ("x", ["x"], {"x": 1}, True, 1):
        assert fault(tmp_path, document(value)) == f"{key}: {LATER[key]}: not available yet; remove the key"
    for empty in (None, "", [], {}, False):
        assert good(tmp_path, document(empty)).providers


def test_a_block_may_take_what_another_has(tmp_path: Path) -> None:
    blocks = "{a: &a {type: apns, topic: t, key_id: K}, b: {<<: *a, topic: u}}"
    assert good(tmp_path, f"providers: {blocks}\n").providers["b"] == {"type": "apns", "topic": "u", "key_id": "K"}


def test_the_shortest_retention(tmp_path: Path) -> None:
    assert good(tmp_path, "trace: {retention: 1h}\nrescue: {after: 30m}\n" + CONSOLE).trace.retention == 3600


def test_environment(tmp_path: Path) -> None:
    text = "server: {bind: '${HOST:-127.0.0.1}:${PORT:-1}', workers: '${N:-3}'}\nadmin: {token: '${T:-}'}\n" + CONSOLE
    config = good(tmp_path, text)
    assert (config.server.bind, config.server.workers, bool(config.admin.token)) == ("127.0.0.1:1", 3, False)
    config = good(tmp_path, text, {"HOST": "::", "PORT": "", "N": "4", "T": "${N}"} | {"HOST": "[::1]"})
    assert (config.server.bind, config.server.workers, config.admin.token.raw) == ("[::1]:1", 4, b"${N}")
    assert "N" not in fault(tmp_path, text, {"N": "many"}).split(":")[0]


def test_an_empty_section_is_the_defaults(tmp_path: Path) -> None:
    assert good(tmp_path, "server: {}\n" + CONSOLE).server == Config().server


def test_secrets_from_files(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"s3cret\n")
    config = good(tmp_path, "webhook: {secret_file: s}\nadmin: {token: '', token_file: s}\n" + CONSOLE)
    assert config.webhook.secret.raw.strip() == config.admin.token.raw.strip() == b"s3cret"
    assert not good(tmp_path, "webhook: {secret_file: ''}\n" + CONSOLE).webhook.secret
    assert (
        fault(tmp_path, "webhook: {secret: a, secret_file: s}\n" + CONSOLE)
        == "webhook.secret: given twice, also as secret_file; allowed: one of them"
    )
    assert (
        fault(tmp_path, "webhook: {secret_file: none}\n" + CONSOLE)
        == f"webhook.secret_file: cannot read {tmp_path / 'none'}: No such file or directory; allowed: a readable file"
    )
    assert (
        fault(tmp_path, "webhook: {secret_file: [s]}\n" + CONSOLE)
        == "webhook.secret_file: found a list; allowed: a file's name"
    )


@pytest.mark.parametrize(
    "text",
    [
        "webhook: {secret: hunter2hunter2}\nserver: {workers: x}\n",
        "webhook: {secret: [hunter2hunter2]}\n",
        "webhook: {secret: {a: hunter2hunter2}}\n",
        "admin: {token: [hunter2hunter2]}\n",
        "storage: {url: 'mysql+pymysql://u:hunter2hunter2@h/d'}\n",
        "relay: [{url: 'http://u:hunter2hunter2@h/'}]\n",
        "relay: [{url: 'http://h/', secret: [hunter2hunter2]}]\n",
        "relay: [{url: 'http://h/hunter2'}, {url: 'http://h/hunter2'}]\n",
    ],
)
def test_no_secret_is_in_a_message(tmp_path: Path, text: str) -> None:
    assert "hunter2" not in fault(tmp_path, text + CONSOLE)


def test_a_number_as_a_secret_is_refused_and_not_shown(tmp_path: Path) -> None:
    said = fault(tmp_path, "webhook: {secret: 123456789}\n" + CONSOLE)
    assert said == "webhook.secret: found no text; allowed: a text in quotes"


def test_no_secret_is_in_a_repr(tmp_path: Path) -> None:
    text = "webhook: {secret: hunter2}\nproviders: {ios: {type: apns, key: hunter2, password: hunter2}}\n"
    config = good(tmp_path, text)
    assert "hunter2" not in repr(config) + repr(config.webhook) + str(config.webhook.secret)


def test_the_address_of_a_relay_target_is_a_secret(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"hunter2\n")
    config = good(tmp_path, "relay: [{url: 'http://10.0.0.9:81/hunter2?x=hunter2', secret_file: s}]\n" + CONSOLE)
    [target] = relay_targets(config)
    assert target.headers["authorization"] == "Basic " + b64encode(b"pushbridge:hunter2").decode()
    assert "hunter2" not in repr(config.relay) + repr(target) + target.name
    assert target.name.startswith("10.0.0.9:81/")
    assert (target.events, target.max_age, target.max_backlog, target.timeout) == (None, 86_400_000, 1_000_000, 10)


@pytest.mark.parametrize(
    "url",
    ["", "h", "ftp://h/", "http:///x", "http://h:0/", "http://h:99999/", "http://h:x/", "http://[::z]/", "http://h h/",
     "http://h/\n", "http://h/#x", "http://u@h/", "http://h/\u00e9", "http://h/a b", "http://h\\x",
     "http://300.1.1.1/x", "http://[1:2]/"],
)  # fmt: skip
def test_what_is_no_address_of_a_relay_target(tmp_path: Path, url: str) -> None:
    text = yaml.safe_dump({"relay": [{"url": url}], "providers": {"c": {"type": "console"}}})
    assert fault(tmp_path, text).startswith(
        "relay[0].url: found something else; allowed: an http or https URL such as "
    )


def test_words_are_changed_one_by_one(tmp_path: Path) -> None:
    text = "notification: {types: {'5000': image, '1': skip}, templates: {en: {image: Picture}, fr: %s}}\n"
    french = "{default: m, hidden: n, group: '{sender} : {text}', system: s}"
    found = good(tmp_path, text % french + CONSOLE).notification
    assert found.templates["en"] == {**words.TEMPLATES["en"], "image": "Picture"}
    assert found.templates["zh"] == words.TEMPLATES["zh"]
    assert found.templates["fr"]["group"] == "{sender} : {text}"
    assert found.types == {**words.TYPES, "5000": "image", "1": "skip"}


def test_numbers_as_keys_need_no_quotes(tmp_path: Path) -> None:
    assert good(tmp_path, "notification: {types: {5000: image}}\n" + CONSOLE).notification.types["5000"] == "image"


def test_the_frame_of_group_messages_is_no_word_for_a_type(tmp_path: Path) -> None:
    said = fault(tmp_path, "notification: {types: {'1': group}}\n" + CONSOLE)
    assert said.startswith("notification.types.1: found 'group'; allowed: call, ")
    assert " group," not in said


def test_ranges_of_types() -> None:
    assert payload_types({"1-3": "a", "2": "b", "07": "c"}, "f") == {1: "a", 2: "b", 3: "a", 7: "c"}
    for wrong in ("", "-1", "1-", "a", "1-20000", "3-1", "1.5", "1_0"):
        with pytest.raises(ConfigError, match=r"^f: notification\.types\."):
            payload_types({wrong: "a"}, "f")


def test_networks() -> None:
    found = [str(network) for network in networks(("loopback", "10.1.0.0/16", "1.2.3.4", "::1"), "f", "k")]
    assert found == ["127.0.0.0/8", "::1/128", "10.1.0.0/16", "1.2.3.4/32", "::1/128"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("3s", 3), ("10m", 600), ("24h", 86_400), ("7d", 604_800), ("0s", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "-3s", "3 s", "1.5s", "3S", "s", "٣s\n", "3s\n", 3, None, True])
def test_what_is_no_duration_or_size(text: object) -> None:
    for kind in (Duration, Size):
        with pytest.raises(ValueError, match="such as"):
            kind.parse(text)


@pytest.mark.parametrize("unit", ["ms", "s", "m", "h", "d"])
def test_a_period_is_a_duration_that_is_not_zero(unit: str) -> None:
    assert Period.parse(f"05{unit}") == Duration.parse(f"5{unit}")
    with pytest.raises(ValueError, match="above zero"):
        Period.parse(f"00{unit}")


@pytest.mark.parametrize("text", ["off", "'off'", "''", "'${STALE_AFTER:-}'"])
def test_staleness_is_off_where_the_file_says_so(tmp_path: Path, text: str) -> None:
    assert not good(tmp_path, f"devices: {{stale_after: {text}}}\n" + CONSOLE).devices.stale_after
    assert not Config().devices.stale_after


def test_staleness_is_a_time_otherwise(tmp_path: Path) -> None:
    assert good(tmp_path, "devices: {stale_after: 90d}\n" + CONSOLE).devices.stale_after == 90 * 86_400
    with pytest.raises(ValueError, match="off"):
        PeriodOrOff.parse(None)


def test_no_size_is_zero() -> None:
    assert Size.parse("010B") == 10
    for text in ("0B", "000MiB"):
        with pytest.raises(ValueError, match="above zero"):
            Size.parse(text)


def test_a_unix_socket_needs_no_addresses(tmp_path: Path) -> None:
    text = "server: {bind: 'unix:/run/p.sock'}\nwebhook: {allow_from: []}\n"
    assert good(tmp_path, text + CONSOLE).webhook.allow_from == ()


@pytest.mark.parametrize(("text", "size"), [("512B", 512), ("64KiB", 65_536), ("8MiB", 8 << 20), ("1GiB", 1 << 30)])
def test_sizes(text: str, size: int) -> None:
    assert Size.parse(text) == size


def test_the_data_folder_is_beside_the_file(tmp_path: Path) -> None:
    assert good(tmp_path, CONSOLE).data_dir == tmp_path / "data"
    assert good(tmp_path, "storage: {data_dir: /x}\n" + CONSOLE).data_dir == Path("/x")


PUBLIC = ["0.0.0.0:8000", ":8000", "[::]:8000", "203.0.113.5:8000", "[2001:db8::1]:80", "bridge.example:8000"]
NOT_PUBLIC = [
    "127.0.0.1:8000",
    "localhost:8000",
    "10.1.2.3:8000",
    "192.168.0.1:1",
    "[::1]:8000",
    "[fd00::1]:80",
    "unix:s",
]
EVERYBODY = ["[any]", "[loopback, any]", "[0.0.0.0/0]", "['::/0']", "[0.0.0.0/1, 128.0.0.0/1]", "[private, 0.0.0.0/0]"]
SOME = ["[loopback, private]", "[203.0.113.0/24]", "[loopback, '2001:db8::/32']", "[0.0.0.0/1]"]


@pytest.mark.parametrize("bind", PUBLIC)
@pytest.mark.parametrize("everybody", EVERYBODY)
def test_nobody_starts_with_the_door_open(tmp_path: Path, bind: str, everybody: str) -> None:
    text = f"server: {{bind: '{bind}'}}\nwebhook: {{allow_from: {everybody}}}\n{CONSOLE}"
    said = fault(tmp_path, text)
    assert said.startswith("webhook.allow_from: found everybody, without a webhook.secret, and server.bind ")
    assert f"'{bind}'" in said
    assert said.endswith("; allowed: a webhook.secret, or loopback, private, or a CIDR such as 10.1.0.0/16")


@pytest.mark.parametrize(
    "text",
    [
        *(f"server: {{bind: '{bind}'}}\nwebhook: {{allow_from: [any]}}\n" for bind in NOT_PUBLIC),
        *(f"server: {{bind: '{bind}'}}\n" for bind in PUBLIC),
        *(f"server: {{bind: '0.0.0.0:8000'}}\nwebhook: {{allow_from: {some}}}\n" for some in SOME),
        "server: {bind: '0.0.0.0:8000'}\nwebhook: {allow_from: [any], secret: hunter2}\n",
        "server: {bind: '0.0.0.0:8000', trusted_proxies: [any]}\nwebhook: {secret: hunter2}\n",
    ],
)
def test_a_door_that_is_not_open_to_everybody(tmp_path: Path, text: str) -> None:
    assert good(tmp_path, text + CONSOLE)


def test_believing_everybody_opens_the_door_too(tmp_path: Path) -> None:
    said = fault(tmp_path, f"server: {{bind: '0.0.0.0:1', trusted_proxies: [any]}}\n{CONSOLE}")
    assert said.startswith("server.trusted_proxies: found everybody, without a webhook.secret")
