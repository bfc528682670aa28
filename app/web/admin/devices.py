"""Registered devices."""

from __future__ import annotations

from collections.abc import Iterable

from app.admin import importing
from app.admin.devices import (
    DeviceBody,
    DeviceLine,
    DeviceList,
    DeviceShown,
    DevicesQuery,
    RestoreBody,
    Restored,
    make,
    register,
    restore,
    shown,
)
from app.admin.importing import Imported, Line
from app.store import devices
from app.web.admin.routes import Answer, Context, NotThere, Route, Takes
from app.web.admin.turns import turn

_UNKNOWN = "The user has no device of that id."
_BUSY = "Another import or restore is being worked on; try again in a few seconds."


def put(context: Context, uid: str, device_id: str, body: DeviceBody) -> Answer:
    device = make(uid, device_id, body, context.providers, context.now())
    ((kept, is_new),) = register(context.database, [device])
    return Answer(201 if is_new else 200, shown(kept))


def of_user(context: Context, uid: str, query: DevicesQuery) -> Answer:
    with context.database.read() as connection:
        found = devices.of_users(connection, [uid], removed=query.removed).get(uid, [])
    return Answer(200, DeviceList([shown(device) for device in found]))


def get(context: Context, uid: str, device_id: str) -> Answer:
    with context.database.read() as connection:
        found = devices.of_users(connection, [uid]).get(uid, [])
    for device in found:
        if device.device_id == device_id:
            return Answer(200, shown(device))
    raise NotThere


def delete(context: Context, uid: str, device_id: str) -> Answer:
    with context.database.write() as connection:
        if not devices.remove(connection, uid, device_id):
            raise NotThere
    return Answer(204)


def take_back(context: Context, body: RestoreBody) -> Answer:
    with turn(context.many, _BUSY):
        return Answer(200, Restored(restore(context.database, body, context.providers, context.now())))


def register_all(context: Context, body: Iterable[Line]) -> Answer:
    with turn(context.many, _BUSY):
        return Answer(200, importing.register_lines(context.database, body, context.providers, context.now))


ROUTES = (
    Route(
        method="PUT",
        path="/users/{uid}/devices/{device_id}",
        name="put_device",
        view=put,
        summary="Register a device, or renew it. The same token under another user or device moves here.",
        body=DeviceBody,
        answers={
            200: ("Changed or renewed.", DeviceShown),
            201: ("New, or back from quarantine.", DeviceShown),
        },
    ),
    Route(
        method="GET",
        path="/users/{uid}/devices",
        name="list_devices",
        view=of_user,
        summary="The devices of a user, with their tokens masked.",
        query=DevicesQuery,
        answers={200: ("The devices; none for an unknown user.", DeviceList)},
    ),
    Route(
        method="GET",
        path="/users/{uid}/devices/{device_id}",
        name="get_device",
        view=get,
        summary="One device of a user, with its tokens masked.",
        answers={200: ("The device.", DeviceShown)},
        refuses={404: _UNKNOWN},
    ),
    Route(
        method="DELETE",
        path="/users/{uid}/devices/{device_id}",
        name="delete_device",
        view=delete,
        summary="Forget a device, in quarantine or not.",
        answers={204: ("Forgotten.", None)},
        refuses={404: _UNKNOWN},
    ),
    Route(
        method="POST",
        path="/devices/restore",
        name="restore_devices",
        view=take_back,
        summary="Take devices back from quarantine whose tokens looked dead because a setting was wrong.",
        body=RestoreBody,
        answers={200: ("How many are pushed to again.", Restored)},
        refuses={429: _BUSY},
    ),
    Route(
        method="POST",
        path="/devices/import",
        name="import_devices",
        view=register_all,
        summary="Register many devices: one JSON object a line. A bad line spoils no other. Webhooks go first, so have "
        "a few thousand lines in one request.",
        body=DeviceLine,
        takes=Takes.LINES,
        answers={200: ("How many were registered, and what was wrong with the other lines.", Imported)},
        refuses={429: _BUSY},
    ),
)
