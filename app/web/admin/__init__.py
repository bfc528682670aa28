"""The admin API: what is registered and set, and why a push did or did not arrive."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from io import BufferedReader
from threading import BoundedSemaphore
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import msgspec
from flask import Blueprint, Response, request
from werkzeug.exceptions import RequestEntityTooLarge

from app.admin import importing, reading
from app.admin.devices import Providers
from app.admin.fields import Ids
from app.admin.reading import Refused
from app.admin.testpush import PATIENCE
from app.intake import Intake
from app.store.dialect import Database
from app.web import rawpath
from app.web.admin import (
    channels,
    dead_letters,
    devices,
    openapi,
    presence,
    settings,
    stats,
    testpush,
    trace,
    turns,
    users,
)
from app.web.admin.routes import Answer, Context, NotThere, Route, Takes
from app.web.errors import ApiError

MAX_BODY = 64 << 10
MAX_IMPORT = 64 << 20
"""Bytes of a request's body."""

ROUTES: tuple[Route, ...] = (
    *devices.ROUTES,
    *users.ROUTES,
    *settings.ROUTES,
    *channels.ROUTES,
    *presence.ROUTES,
    *testpush.ROUTES,
    *trace.ROUTES,
    *dead_letters.ROUTES,
    *stats.ROUTES,
)


def blueprint(
    database: Database,
    token: str,
    providers: Providers,
    intake: Intake,
    now: Callable[[], int],
    poke: Callable[[], None],
    *,
    ttl: int,
    patience: float = PATIENCE,
) -> Blueprint:
    """The API, to be mounted at /admin/v1 of an app with `rawpath.NameConverter` as `name`, inside `rawpath.RawPath`.

    providers: the type by the configured name. now: UNIX milliseconds. poke: tells the dispatcher that there is work.
    ttl: milliseconds after which an online record is not believed. patience: seconds to wait for the outcomes of a test
    push.
    """
    if not token:
        raise ValueError("the admin API needs a token")
    waiting, many = BoundedSemaphore(turns.AT_ONCE), BoundedSemaphore(turns.AT_ONCE)
    context = Context(database, providers, intake, now, poke, patience, waiting, many, ttl)
    api = Blueprint("admin", __name__)
    for route in (*ROUTES, openapi.route(ROUTES, providers)):
        api.add_url_rule(
            route.path.replace("{", "<name:").replace("}", ">"),
            endpoint=route.name,
            view_func=_served(route, context, token.encode()),
            methods=[route.method],
            provide_automatic_options=False,
        )
    return api


def _served(route: Route, context: Context, token: bytes) -> Callable[..., Response]:
    def view(**segments: str) -> Response:
        _authenticate(token)
        try:
            arguments: dict[str, Any] = _ids(segments)
            query = _query(route)
            if query is not None:
                arguments["query"] = query
            if route.body is not None:
                arguments["body"] = _body(route, route.body)
            return _response(route.view(context, **arguments))
        except Refused as refused:
            raise ApiError(400, "bad_request", str(refused)) from None
        except NotThere:
            raise ApiError(404, "not_found", route.refuses[404]) from None

    return view


def _authenticate(token: bytes) -> None:
    # Header values are bytes that WSGI writes as Latin-1.
    scheme, _, given = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    matches = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token)
    if scheme.lower() != "bearer" or not matches:
        challenge = {"WWW-Authenticate": 'Bearer realm="pushbridge"'}
        raise ApiError(401, "unauthorized", "Authorization: allowed: Bearer and the token of admin.token", challenge)


def _ids(segments: dict[str, str]) -> dict[str, Any]:
    ids = {}
    for name, segment in segments.items():
        rule = reading.rules(Ids)[name]
        try:
            value = reading.from_text(rawpath.decode(segment), rule)
        except UnicodeDecodeError:
            raise Refused(f"{name} (in the path): found no UTF-8; allowed: {rule.allowed}") from None
        reading.check(f"{name} (in the path)", value, rule)
        ids[name] = value
    return ids


def _query(route: Route) -> msgspec.Struct | None:
    """The query's parameters; a route that takes none refuses all."""
    given: dict[str, str] = {}
    for pair in filter(None, request.query_string.split(b"&")):
        name, value = (_query_text(part) for part in (pair.partition(b"=")[0], pair.partition(b"=")[2]))
        if name in given:
            raise Refused(f"{reading.shown(name)}: found twice; allowed: once")
        given[name] = value
    return reading.convert_texts(given, route.query or _NoQuery) if route.query or given else None


class _NoQuery(msgspec.Struct):
    """What a route without parameters takes."""


def _query_text(part: bytes) -> str:
    try:
        return unquote_to_bytes(part.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise Refused("query: found no UTF-8; allowed: percent-encoded UTF-8") from None


def _body(route: Route, struct: type[msgspec.Struct]) -> Any:
    limit = MAX_IMPORT if route.takes is Takes.LINES else MAX_BODY
    if (request.content_length or 0) > limit:
        raise _too_long(limit)
    # One more, because a body whose length was not announced is cut off at the maximum without a word.
    request.max_content_length = limit + 1
    if route.takes is Takes.LINES:
        return _lines(BufferedReader(cast(Any, request.stream)))
    body = request.get_data()
    if len(body) > limit:
        raise _too_long(limit)
    return reading.read(b"{}" if route.takes is Takes.OPTIONAL and not body else body, struct)


def _too_long(limit: int) -> ApiError:
    return ApiError(413, "request_entity_too_large", f"body: found more than {limit} bytes; allowed: up to {limit}")


def _lines(stream: BufferedReader) -> Iterator[importing.Line]:
    """The lines of a body whose length was not announced may turn out too long when others are registered already."""
    try:
        yield from importing.lines(stream)
    except RequestEntityTooLarge:
        yield Refused(f"body: found more than {MAX_IMPORT} bytes; this line and those after it were not read")


def _response(answer: Answer) -> Response:
    response = Response(status=answer.status)
    response.headers["Cache-Control"] = "no-store"
    if answer.value is None:
        del response.headers["Content-Type"]
    else:
        response.data = msgspec.json.encode(answer.value)
        response.content_type = "application/json"
    return response


__all__ = ["ROUTES", "blueprint"]
