"""Who is online, as `user.onlinestatus` said."""

from __future__ import annotations

from msgspec import Struct

from app.admin import times
from app.presence import Looks, looks
from app.store import presence
from app.web.admin.routes import Answer, Context, Route


class Connected(Struct, frozen=True):
    """One kind of device; `since` is when it last changed between online and offline."""

    device_flag: int
    online: bool
    since: str


class Presence(Struct, frozen=True):
    """online: whether any kind of device is said to be.

    believed: whether what says so is no older than `presence.ttl`. Only WuKongIM, when asked, can say of what is older
    that it still holds.
    """

    online: bool
    believed: bool
    devices: list[Connected]


def get(context: Context, uid: str) -> Answer:
    with context.database.read() as connection:
        known = presence.of_users(connection, [uid]).get(uid, {})
    devices = [Connected(flag, known[flag].online, times.utc(known[flag].since)) for flag in sorted(known)]
    believed = looks(known, "any", context.ttl, context.now()) is Looks.ONLINE
    return Answer(200, Presence(any(device.online for device in devices), believed, devices))


ROUTES = (
    Route(
        method="GET",
        path="/users/{uid}/presence",
        name="get_presence",
        view=get,
        summary="On which kinds of device a user was said to be online.",
        answers={200: ("What is known; nothing for an unknown user.", Presence)},
    ),
)
