"""`python -m bench`: the whole bridge and the vendors' clients against one nginx, as a table and a line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import bridge, peers
from bench.nginx import MISSING, Nginx, is_there

WEBHOOKS, RECIPIENTS = 100, 500
APNS_PUSHES, FCM_PUSHES = 20_000, 3_000
"""What the vendors' clients send: enough for a steady rate, which is all that is compared."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--webhooks", type=int, default=WEBHOOKS, help=f"of {RECIPIENTS} recipients each")
    arguments = parser.parse_args()
    if not is_there():
        print(MISSING, file=sys.stderr)
        return 1
    if not Path("/proc/self/stat").exists():
        print("bench reads CPU and memory from /proc, which only Linux has", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="pushbridge-bench-") as name, Nginx(Path(name) / "nginx") as nginx:
        _report(_measure(Path(name), nginx, arguments.webhooks))
    return 0


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
