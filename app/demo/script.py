"""Who talks to whom in the demo, about what, and what is expected of each message."""

from __future__ import annotations

from msgspec import Struct

GROUP, GROUP_NAME = "hike-2026", "Weekend hike"
GROUP_TYPE = 2


class Person(Struct, frozen=True):
    """One who takes part. `phone`: how the cards call it. `token`: what the vendor knows it by."""

    uid: str
    name: str
    provider: str
    phone: str
    token: str
    locale: str = ""


class Step(Struct, frozen=True, kw_only=True):
    """One thing that happens.

    title, note: what the audience is told before it. status: a line of `user.onlinestatus`, posted first.
    sender, to, payload, about: a message, unless `to` is empty; `about` is its name in the table at the end.
    group: whether it is posted in the group. outcomes: what must become of it, by recipient.
    """

    title: str
    note: str
    status: str = ""
    sender: str = ""
    to: tuple[str, ...] = ()
    payload: dict[str, str | int] = {}
    about: str = ""
    group: bool = False
    outcomes: dict[str, str] = {}

    @property
    def said(self) -> str:
        """The words of the message, or its file."""
        return str(self.payload.get("content") or self.payload.get("url", ""))


PEOPLE = (
    Person("ann", "Ann", "ios", "Ann's iPhone", "a1" * 32),
    Person("bob", "Bob", "ios", "Bob's iPhone", "b0" * 32),
    Person("chen", "陈静", "android", "陈静's Pixel", "chen-registration-token", "zh-CN"),
    Person("dora", "Dora", "ios", "Dora's iPhone", "d0" * 32),
    Person("eva", "Eva", "ios", "Eva's iPhone", "e5" * 32),
)
GONE = "eva"
"""Whose phone no longer has the app."""

STEPS = (
    Step(
        title="Ann writes to Bob",
        note="Bob is offline, so WuKongIM posts msg.offline and his iPhone rings.",
        sender="ann",
        to=("bob",),
        payload={"type": 1, "content": "Are you still up for the mountains on Saturday?"},
        about="text",
        outcomes={"bob": "sent"},
    ),
    Step(
        title="Bob sends 陈静 a picture",
        note="Her locale is Chinese, so her notification is too.",
        sender="bob",
        to=("chen",),
        payload={"type": 2, "url": "file/peak.jpg", "width": 1600, "height": 900},
        about="picture",
        outcomes={"chen": "sent"},
    ),
    Step(
        title="Dora opens the web client",
        note="WuKongIM posts user.onlinestatus. From now on she is left in peace.",
        status="dora-1-1-11-1-1",
    ),
    Step(
        title="Ann writes to the group",
        note="Dora is online. Eva has deleted the app, and APNs will say so.",
        sender="ann",
        to=("bob", "chen", "dora", "eva"),
        payload={"type": 1, "content": "The train leaves at 7:40 from platform 3."},
        about="group message",
        group=True,
        outcomes={"bob": "sent", "chen": "sent", "dora": "suppressed", "eva": "invalid_token"},
    ),
    Step(
        title="Bob writes to Eva",
        note="Her phone was forgotten when APNs called it gone: nobody is asked again.",
        sender="bob",
        to=("eva",),
        payload={"type": 1, "content": "Shall I bring your boots?"},
        about="text",
        outcomes={"eva": "skipped"},
    ),
    Step(
        title="Dora closes her browser, and 陈静 writes to her",
        note="She is offline now, so her iPhone rings.",
        status="dora-1-0-11-0-0",
        sender="chen",
        to=("dora",),
        payload={"type": 1, "content": "好的，周六早上车站见！"},
        about="text",
        outcomes={"dora": "sent"},
    ),
)
