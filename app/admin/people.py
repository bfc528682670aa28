"""Settings of users and names of channels."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from app import events
from app.admin import fields
from app.events import BadEvent
from app.model import Settings
from app.store import erasing, inbox, people
from app.store.dialect import Database

_LATER = ("muted_until", "quiet_hours")


class SettingsBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A user's settings. `name` is shown as the sender; `show_content` null leaves it to the configuration."""

    LATER: ClassVar[tuple[str, ...]] = _LATER

    name: fields.Name = ""
    locale: fields.Locale = ""
    show_content: bool | None = None


class SettingsPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change of a user's settings; what is left out stays."""

    LATER: ClassVar[tuple[str, ...]] = _LATER

    name: fields.Name | UnsetType = UNSET
    locale: fields.Locale | UnsetType = UNSET
    show_content: bool | UnsetType | None = UNSET


class ChannelBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The name that a group's messages are shown under."""

    name: fields.Title


class ChannelShown(Struct, frozen=True):
    """A channel that has a name."""

    channel_type: int
    channel_id: str
    name: str


def settings(database: Database, uid: str) -> SettingsBody:
    """A user's settings; the defaults where nothing was ever set."""
    with database.read() as connection:
        return _shown(people.settings(connection, [uid]).get(uid, Settings()))


def replace_settings(database: Database, uid: str, body: SettingsBody) -> SettingsBody:
    """Set all of a user's settings."""
    with database.write() as connection:
        people.put_settings(connection, uid, Settings(body.name, body.locale, body.show_content))
    return body


def change_settings(database: Database, uid: str, patch: SettingsPatch) -> SettingsBody:
    """Change what was given; the settings afterwards."""
    changes = {name: value for name, value in msgspec.structs.asdict(patch).items() if value is not UNSET}
    if not changes:
        return settings(database, uid)
    with database.write() as connection:
        before = people.settings(connection, [uid]).get(uid, Settings())
        after = msgspec.structs.replace(before, **changes)
        people.put_settings(connection, uid, after)
    return _shown(after)


def erase(database: Database, uid: str) -> None:
    """Forget a user."""
    with database.read() as connection:
        # One by one: they may be large, and are no more than our faults.
        set_aside = [
            event.id
            for event_id in inbox.all_set_aside(connection)
            for event in inbox.load(connection, [event_id]).values()
            if _is_for(event.body, uid)
        ]
    with database.write() as connection:
        erasing.erase(connection, uid, set_aside)


def _is_for(body: bytes, uid: str) -> bool:
    """Whether a call is a message for this user and nobody else, as far as it can be read."""
    try:
        _, recipients = events.offline(body)
    except BadEvent:
        return False
    return recipients.uids == (uid,) and not recipients.lost


def _shown(value: Settings) -> SettingsBody:
    return SettingsBody(name=value.name, locale=value.locale, show_content=value.show_content)
