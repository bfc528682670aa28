"""What a route of the admin API is: the one description that serving and the OpenAPI document are made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from threading import BoundedSemaphore
from typing import Any, NamedTuple

from msgspec import Struct

from app.admin.devices import Providers
from app.intake import Intake
from app.store.dialect import Database


class Context(NamedTuple):
    """What views work with.

    now: UNIX milliseconds. patience: seconds to wait for a test push. waiting: held by each request that waits for one.
    many: held by each request that imports or restores devices.
    ttl: milliseconds after which an online record is not believed.
    """

    database: Database
    providers: Providers
    intake: Intake
    now: Callable[[], int]
    poke: Callable[[], None]
    patience: float
    waiting: BoundedSemaphore
    many: BoundedSemaphore
    ttl: int


class NotThere(Exception):
    """What the path names is not there: 404, in the words that the route has for it in `refuses`."""


class Answer(NamedTuple):
    """value: what the body says; None where there is none."""

    status: int
    value: Any = None


class Takes(Enum):
    """How a request's body is read: an object; an object or nothing, which is an empty one; a device a line."""

    OBJECT = "object"
    OPTIONAL = "optional"
    LINES = "lines"


class Route(Struct, frozen=True, kw_only=True):
    """One call.

    path: below the blueprint's prefix, with ids as `{uid}`; the names are those of admin.fields.Ids.
    view: takes the context, the ids, and `body` and `query` where there are any; knows nothing of HTTP but the status.
    body: what the request's body is checked against (each line's, where `takes` says so); None where it has none.
    answers: by status, what it means, and the struct of the body; None where there is none.
    """

    method: str
    path: str
    name: str
    view: Callable[..., Answer]
    summary: str
    answers: Mapping[int, tuple[str, type[Struct] | None]]
    body: type[Struct] | None = None
    takes: Takes = Takes.OBJECT
    query: type[Struct] | None = None
    refuses: Mapping[int, str] = {}
