"""Runs a command that ends with the process that asked for it: `python -m app.demo.guard COMMAND…`.

The guard stops the command (SIGTERM, then SIGKILL to its whole session) when its own standard input closes, on SIGTERM
or SIGINT, or after a day; it ends by itself, with the same exit code, when the command does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

GRACE = 20.0
"""Seconds to stop in order; gunicorn and its dispatcher take at most fifteen."""
_LONGEST = 86_400.0


class Guarded:
    """A command that runs while the `with` block lasts, and not longer than this process. Its output goes to a file."""

    def __init__(self, command: Sequence[str], output: Path, environ: Mapping[str, str] | None = None) -> None:
        self._command = [sys.executable, "-m", "app.demo.guard", *command]
        self._environ = environ
        self.output = output
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._environ,
                start_new_session=True,  # Ctrl-C is for us alone, who then stop everything in its order
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        process.stdin.close()
        process.wait()

    def ended(self) -> bool:
        """Whether the command has ended by itself."""
        return self._process is None or self._process.poll() is not None


def main() -> int:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_follow, args=(stop,), daemon=True).start()
    threading.Thread(target=_notice, args=(child, stop), daemon=True).start()
    stop.wait(_LONGEST)
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    return child.wait()


def _follow(stop: threading.Event) -> None:
    # os.read and not sys.stdin, whose lock must not be held by a daemon thread when the interpreter ends.
    while os.read(0, 4096):
        pass
    stop.set()


def _notice(child: subprocess.Popen[bytes], stop: threading.Event) -> None:
    child.wait()
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
