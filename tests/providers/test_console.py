from __future__ import annotations

import asyncio
import io

import msgspec
import pytest

from providers import console
from providers.kit.base import Delivered, Provider, Target, Unreachable
from tests.providers.material import BODY, DEVICE_TOKEN, PUSH_ID, TARGET, TITLE, notice


def push(provider: Provider, target: Target = TARGET, **changes: object) -> object:
    assert provider.local is not None
    request = provider.request(provider.prepare(notice(**changes)), target)
    return provider.read(asyncio.run(provider.local(request)))


def build(stream: io.TextIOBase) -> Provider:
    config = msgspec.convert({"type": "console"}, console.Config)
    return console.build("console", config, stream)  # type: ignore[arg-type]


def test_a_push_is_one_line_with_text_and_a_masked_token() -> None:
    out = io.StringIO()
    assert push(build(out)) == Delivered(PUSH_ID)
    line = out.getvalue()
    assert line.count("\n") == 1
    assert TITLE in line
    assert BODY in line
    assert "phone" in line
    assert DEVICE_TOKEN[:8] not in line


def test_a_short_token_is_not_shown_at_all() -> None:
    out = io.StringIO()
    push(build(out), Target("phone", "sekret", PUSH_ID))
    assert "sek" not in out.getvalue()


def test_text_cannot_steer_the_terminal() -> None:
    out = io.StringIO()
    push(build(out), title="\x1b[2Jred\r\n", body="a\u202eb\x9bc 👨‍👩‍👧")
    line = out.getvalue()
    assert line.rstrip("\n").count("\n") == 0
    assert not set(line) & set("\x1b\r\x9b\u202e")
    assert "👨‍👩‍👧" in line


def test_an_output_of_few_characters_is_no_trouble() -> None:
    raw = io.BytesIO()
    push(build(io.TextIOWrapper(raw, encoding="ascii")), title="你好")
    assert b"\\u4f60\\u597d" in raw.getvalue()


def test_a_closed_output_is_unreachable() -> None:
    out = io.StringIO()
    out.close()
    with pytest.raises(Unreachable):
        push(build(out))


def test_the_output_is_the_process_s_own_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    push(console.build("console", console.Config(type="console")))
    assert TITLE in capsys.readouterr().out


def test_describe_says_that_nothing_is_sent() -> None:
    assert "sends nothing" in build(io.StringIO()).describe()
