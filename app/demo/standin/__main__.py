"""The stand-in as a process: `python -m app.demo.standin --dir DIR [--seconds N]`.

Prints one line of JSON that says where everything is, and ends when its standard input closes (so with the process
that started it), on SIGTERM or SIGINT, or after N seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import ssl
import threading
from pathlib import Path

import uvloop
from msgspec import Struct, structs

from app.demo.certs import Authority, make_ca_and_server, write_apns_key, write_client, write_service_account
from app.demo.standin.apns import Apns
from app.demo.standin.client import Places
from app.demo.standin.control import Control
from app.demo.standin.fcm import AccessTokens, Fcm, TokenEndpoint
from app.demo.standin.record import Recorder
from app.demo.standin.server import Scripts, Server, Vendor
from app.demo.standin.values import Handler
from app.demo.standin.wire import Wire

_KEY_ID, _TEAM_ID, _TOPIC, _PROJECT = "ABC1234567", "DEF1234567", "com.example.chat", "example-chat"
_BACKLOG = 512
# APNs: one request until the first good provider token, then the number seen in 2021. FCM: 100, as observed.
_STREAMS = {"apns": (1, 1000), "fcm": (100, 100), "token": (100, 100)}


class _Shared(Struct, frozen=True):
    """What the servers have in common."""

    tls: ssl.SSLContext
    scripts: Scripts
    recorder: Recorder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.demo.standin", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where keys and certificates are kept")
    parser.add_argument("--seconds", type=float, default=600, help="how long to live at most")
    arguments = parser.parse_args()
    uvloop.run(_run(arguments.dir.resolve(), arguments.seconds))


async def _run(directory: Path, seconds: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.call_later(seconds, stop.set)
    threading.Thread(target=_watch_stdin, args=(loop, stop), daemon=True).start()
    places = await _serve(directory)
    print(json.dumps(structs.asdict(places)), flush=True)
    await stop.wait()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    # os.read and not sys.stdin, whose lock must not be held by a daemon thread when the interpreter ends.
    while os.read(0, 4096):
        pass
    if not loop.is_closed():
        loop.call_soon_threadsafe(stop.set)


async def _serve(directory: Path) -> Places:
    authority = make_ca_and_server(directory)
    key_file, account_file, client_file = (directory / name for name in ("AuthKey.p8", "firebase.json", "client.pem"))
    write_client(client_file, authority, _TOPIC)
    shared = _Shared(_tls(authority), Scripts(), Recorder())
    tokens = AccessTokens()
    apns = Apns(write_apns_key(key_file), _KEY_ID, _TEAM_ID, _TOPIC)
    # The service account names the address of the token endpoint, and the endpoint needs the account's key.
    door = _Door()
    token_uri = f"https://{await _listen(door, shared.tls)}/token"
    account_key = write_service_account(account_file, _PROJECT, token_uri)
    email = json.loads(account_file.read_bytes())["client_email"]
    vendors: tuple[Vendor, ...] = (apns, Fcm(_PROJECT, tokens), TokenEndpoint(account_key, email, tokens))
    servers = {vendor.name: _server(vendor, shared) for vendor in vendors}
    door.handler = servers["token"]
    control = Control(servers, shared.scripts, shared.recorder, tokens.revoke, apns.rotate)
    return Places(
        apns=f"https://{await _listen(_Door(servers['apns']), shared.tls)}",
        fcm=f"https://{await _listen(_Door(servers['fcm']), shared.tls)}",
        token_uri=token_uri,
        control=f"http://{await _listen(_Door(control), None)}",
        ca_file=str(authority.ca_file),
        key_file=str(key_file),
        key_id=_KEY_ID,
        team_id=_TEAM_ID,
        topic=_TOPIC,
        service_account_file=str(account_file),
        client_cert_file=str(client_file),
    )


class _Door:
    """Builds the protocol of each new connection; the handler may be given after the port is known."""

    def __init__(self, handler: Handler | None = None) -> None:
        self.handler = handler

    def __call__(self) -> asyncio.Protocol:
        return asyncio.Protocol() if self.handler is None else Wire(self.handler)


def _server(vendor: Vendor, shared: _Shared) -> Server:
    return Server(vendor, shared.scripts, shared.recorder, _STREAMS[vendor.name])


async def _listen(door: _Door, tls: ssl.SSLContext | None) -> str:
    server = await asyncio.get_running_loop().create_server(door, "127.0.0.1", 0, ssl=tls, backlog=_BACKLOG)
    host, port = server.sockets[0].getsockname()[:2]
    return f"{host}:{port}"


def _tls(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(authority.server_file, authority.server_key_file)
    context.load_verify_locations(authority.ca_file)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


if __name__ == "__main__":
    main()
