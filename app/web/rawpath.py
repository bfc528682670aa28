"""Ids in paths that hold anything, encoded slashes included.

WSGI hands on a decoded path, in which an encoded slash cannot be told from one that separates. Servers keep the path as
it was sent beside it; under the API's prefix routing works on that one, and an id is decoded only when it stands alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from werkzeug.routing import BaseConverter

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PREFIX = "/admin/v1/"


class RawPath:
    """WSGI middleware: paths under PREFIX stay percent-encoded, each segment in the one way that `quote` writes it."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = encoded_path(environ)
        if path.startswith(PREFIX):
            environ = {**environ, "PATH_INFO": path}
        return self._app(environ, start_response)


def encoded_path(environ: WSGIEnvironment) -> str:
    """The path as it was sent, less the place where the app is mounted, ASCII only."""
    sent = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if not sent:
        return quote(environ.get("PATH_INFO", "").encode("latin-1", "replace"))
    path = sent.partition("?")[0].partition("#")[0]
    if not path.startswith("/"):  # the absolute form, as sent to a proxy
        path = "/" + path.partition("://")[2].partition("/")[2]
    segments = path.encode("latin-1", "replace").split(b"/")
    path = "/".join(quote(unquote_to_bytes(segment), safe="") for segment in segments)
    return path.removeprefix(quote(environ.get("SCRIPT_NAME", "").encode("latin-1", "replace")))


class NameConverter(BaseConverter):
    """One segment as it was sent, even an empty one: `decode` gives the id, and says what is wrong with it."""

    regex = "[^/]*"


def decode(segment: str) -> str:
    """The id in a segment; raises UnicodeDecodeError where it is no UTF-8."""
    return unquote_to_bytes(segment).decode()
