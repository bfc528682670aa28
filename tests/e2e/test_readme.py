"""What the README tells a new user to type, typed, and its answers compared with what it promises."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.e2e.service import ROOT, Service, until

CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def steps(text: str) -> list[tuple[str, str]]:
    """The commands in their order, and what is said to come of each."""
    found: list[tuple[str, str]] = []
    for block in CONSOLE.findall(text):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], ""))
            else:
                command, answer = found[-1]
                found[-1] = (command, answer + line)
    return found


def matches(promised: str, printed: str) -> bool:
    """`…` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in promised.split("…"))
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


def test_the_first_steps_print_what_the_readme_says(start: Callable[..., Service], tmp_path: Path) -> None:
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "config.yaml").write_text((ROOT / "config.yaml").read_text())
    service = start(config=shipped / "config.yaml", environ={"PUSHBRIDGE_ADMIN_TOKEN": ""})
    text = (ROOT / "README.md").read_text()
    commands = steps(text)
    assert len(commands) == 9
    script = "\n".join(f"{command}\necho; echo ---" for command, _ in commands).replace(":8000", f":{service.port}")
    shell = subprocess.run(["bash", "-c", script], cwd=shipped, capture_output=True, text=True, timeout=60, check=True)
    for (command, promised), printed in zip(commands, shell.stdout.split("---\n"), strict=False):
        assert matches(promised, printed.strip()), f"{command}\nprints {printed}"
    line = PRINTED.findall(text)[0].strip()
    until(lambda: line in service.output.read_text(), f"the service prints {line!r}")
    assert "are you there?" not in service.output.read_text().replace(line, ""), "the first message was not pushed"


def test_the_chinese_readme_tells_the_same_steps() -> None:
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))
    assert steps(chinese) == steps(english)
    assert PRINTED.findall(chinese) == PRINTED.findall(english)
