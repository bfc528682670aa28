"""`python -m bench`: how fast the bridge is, and what a blocked or a flooding neighbour costs, against one nginx.

rate: the whole bridge beside the vendors' own clients, as a table and a line of JSON. neighbour: FCM while APNs never
answers, in runs that take turns with those where it does. flood: a person's message while a group's flood is queued.
The last two compare within one run and print a ratio; where it is worse than promised the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import bridge, flood, neighbour, peers
from bench.nginx import MISSING, Nginx, is_there

WEBHOOKS, RECIPIENTS = 100, 500
APNS_PUSHES, FCM_PUSHES = 20_000, 3_000
"""What the vendors' clients send: enough for a steady rate, which is all that is compared."""
RATE = "rate"
COMPARED: dict[str, Callable[[Path, Nginx], neighbour.Result | flood.Result]] = {
    "neighbour": neighbour.run,
    "flood": flood.run,
}


def main() -> int:
    shown = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, formatter_class=shown)
    parser.add_argument("--only", choices=(RATE, *COMPARED), help="this one; all where it is absent")
    parser.add_argument("--webhooks", type=int, default=WEBHOOKS, help=f"of {RECIPIENTS} recipients each")
    arguments = parser.parse_args()
    if not is_there():
        print(MISSING, file=sys.stderr)
        return 1
    if not Path("/proc/self/stat").exists():
        print("bench reads CPU and memory from /proc, which only Linux has", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="pushbridge-bench-") as name, Nginx(Path(name) / "nginx") as nginx:
        folder = Path(name)
        if arguments.only in (None, RATE):
            _report(_measure(folder, nginx, arguments.webhooks))
        return _compare(folder, nginx, [arguments.only] if arguments.only else list(COMPARED))


def _compare(folder: Path, nginx: Nginx, wanted: list[str]) -> int:
    """1 where a promise is not kept."""
    bad = 0
    for name in wanted:
        if name in COMPARED:
            print(f"{name} …", file=sys.stderr, flush=True)
            result = COMPARED[name](folder / name, nginx)
            print(result, flush=True)
            bad |= not result.is_good
    return int(bad)


def _measure(folder: Path, nginx: Nginx, webhooks: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, run in (
        ("aioapns", lambda: peers.aioapns(folder / "aioapns", nginx, APNS_PUSHES)),
        ("bridge_apns", lambda: bridge.run(folder / "apns", nginx, bridge.apns, webhooks, RECIPIENTS)),
        ("firebase_admin", lambda: peers.firebase(nginx, FCM_PUSHES)),
        ("bridge_fcm", lambda: bridge.run(folder / "fcm", nginx, bridge.fcm, webhooks, RECIPIENTS)),
    ):
        print(f"{name} …", file=sys.stderr, flush=True)
        results[name] = run()
    return results


def _report(results: dict[str, Any]) -> None:
    apns, fcm = results["bridge_apns"], results["bridge_fcm"]
    aioapns, firebase = results["aioapns"], results["firebase_admin"]
    row = "{:<38}{:>10}{:>13}{:>10}{:>8}".format
    print(row("", "pushes/s", "CPU µs/push", "peak MB", "ratio"))
    print(row("aioapns, its client alone", f"{aioapns.rate:,.0f}", f"{aioapns.cpu:.0f}", "", "1.0"))
    print(row("Pushbridge to APNs, webhook to trace", *_cells(apns, aioapns)))
    print(row("firebase-admin send_each_async alone", f"{firebase.rate:,.0f}", f"{firebase.cpu:.0f}", "", "1.0"))
    print(row("Pushbridge to FCM, webhook to trace", *_cells(fcm, firebase)))
    for name, result in (("APNs", apns), ("FCM", fcm)):
        print(
            f"{name}: {result.pushes:,} pushes in {result.seconds:.2f} s; webhooks answered meanwhile within"
            f" {result.answer_ms(0.5):.1f} ms (p50), {result.answer_ms(0.99):.1f} ms (p99)"
        )
    print(json.dumps(_figures(results)))


def _cells(ours: bridge.Result, theirs: peers.Result) -> tuple[str, str, str, str]:
    return f"{ours.rate:,.0f}", f"{ours.cpu:.0f}", f"{ours.memory:.0f}", f"{ours.rate / theirs.rate:.1f}"


def _figures(results: dict[str, Any]) -> dict[str, Any]:
    figures: dict[str, Any] = {"python": platform.python_version(), "cpus": os.cpu_count()}
    for name, result in results.items():
        figures[name] = {"pushes_per_second": round(result.rate), "cpu_us_per_push": round(result.cpu, 1)}
        if isinstance(result, bridge.Result):
            figures[name] |= {
                "peak_mb": round(result.memory),
                "server_cpu_us_per_push": round(result.server_cpu, 1),
                "webhook_p50_ms": round(result.answer_ms(0.5), 1),
                "webhook_p99_ms": round(result.answer_ms(0.99), 1),
            }
    figures["ratio_apns"] = round(results["bridge_apns"].rate / results["aioapns"].rate, 2)
    figures["ratio_fcm"] = round(results["bridge_fcm"].rate / results["firebase_admin"].rate, 2)
    return figures


if __name__ == "__main__":
    sys.exit(main())
