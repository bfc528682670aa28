"""Turns a message, the names it is shown under and the templates into a vendor-neutral Notice."""

from __future__ import annotations

from hashlib import sha256

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from app.model import PERSON, Content, Message, Names
from providers.kit.base import Notice
from providers.kit.text import fit

SYSTEM_SENDERS = frozenset({"", "____system"})
SKIP = "skip"
MAX_TITLE = 100
"""Characters; a phone shows fewer."""
MAX_ID_BYTES = 400
"""An id that is longer than this as JSON is left out of the data, or there would be no room for the text."""

Templates = dict[str, dict[str, str]]
"""Text by locale and template name."""


class Style(Struct, frozen=True, kw_only=True):
    """`notification:` of the configuration.

    types: template name, or `skip`, by payload type.
    """

    locale: str = "en"
    show_content: bool = True
    sound: str = "default"
    types: dict[int, str]
    templates: Templates

    @property
    def skip_types(self) -> frozenset[int]:
        return frozenset(kind for kind, name in self.types.items() if name == SKIP)


def notice(
    message: Message, content: Content, names: Names, *, locale: str, show_content: bool | None, style: Style
) -> Notice:
    """The notification as its recipient reads it. `locale` and `show_content` are theirs; "" and None: the style's."""
    templates = style.templates[choose_locale(locale, style)]
    shown = style.show_content if show_content is None else show_content and style.show_content
    channel_type, channel_id = message.thread
    sender = names.sender or (templates["system"].format() if message.from_uid in SYSTEM_SENDERS else message.from_uid)
    title = sender if channel_type == PERSON else names.channel or channel_id or sender
    text = _text(message, content, templates, style) if shown else templates["hidden"].format()
    if shown and channel_type != PERSON:
        text = templates["group"].format(sender=sender, text=text)
    return Notice(
        message_id=str(message.message_id),
        title=fit(" ".join(title.split()), len, MAX_TITLE),
        body=text,
        thread=_thread(channel_type, channel_id),
        data=_data(message, content),
        expires_at=message.expires_at,
        sound=style.sound,
    )


def reworded(notice: Notice, title: str, body: str) -> Notice:
    """The same notification with other words: a test push."""
    return replace(notice, title=fit(title, len, MAX_TITLE), body=body)


def choose_locale(wanted: str, style: Style) -> str:
    """The best locale that there are templates for: `zh-Hans-CN`, then `zh-Hans`, then `zh`, then the default."""
    parts = wanted.replace("_", "-").split("-")
    for length in range(len(parts), 0, -1):
        candidate = "-".join(parts[:length]).lower()
        for locale in style.templates:
            if locale.replace("_", "-").lower() == candidate:
                return locale
    return style.locale


def _text(message: Message, content: Content, templates: dict[str, str], style: Style) -> str:
    if message.encrypted:
        return templates["hidden"].format()
    template = templates.get(style.types.get(content.type, "default"), templates["default"])
    if "{content}" in template and not content.text:
        template = templates["default"]
    return template.format(content=content.text)


def _thread(channel_type: int, channel_id: str) -> str:
    if not _short(channel_id):
        channel_id = sha256(channel_id.encode()).hexdigest()
    return f"{channel_type}:{channel_id}"


def _data(message: Message, content: Content) -> dict[str, str | int]:
    """The keys that the app gets, the same for every provider."""
    channel_type, channel_id = message.thread
    data: dict[str, str | int] = {
        "message_id": str(message.message_id),
        "message_seq": message.message_seq,
        "client_msg_no": message.client_msg_no,
        "channel_id": channel_id,
        "channel_type": channel_type,
        "from_uid": message.from_uid,
        "timestamp": message.timestamp,
        "type": content.type,
    }
    return {key: value for key, value in data.items() if isinstance(value, int) or _short(value)}


def _short(text: str) -> bool:
    """JSON writes a control character in six bytes."""
    return len(text) * 6 <= MAX_ID_BYTES or len(msgspec.json.encode(text)) - 2 <= MAX_ID_BYTES
