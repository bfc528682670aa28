"""From `msg.notify`: who a message was for, and whether to push it where `msg.offline` never named them.

Times are UNIX milliseconds.
"""

from __future__ import annotations

from zlib import crc32

from app.model import APP, PERSON, Connections, Message
from app.plan import Policy, message_skip
from app.presence import Looks, looks

COMMAND = "____cmd"
"""What the channel of a command ends in."""
LATE = 2_300
"""How long after a close the server says so at most: v2 took up to 2.1 s, v3 2.0 s. `presence.hold` allows for more,
which costs only time there; here it would cost a push for somebody who has read the message."""
SYSTEM = "____system"
"""The channel of v2's system sender, whoever the receiver is."""


def passed_over(message: Message, payload_type: int, policy: Policy, now: int) -> str:
    """Why nobody is looked for who should get this message, "" where somebody is."""
    if message.channel_type != PERSON:
        return "channel"
    if message.channel_id.endswith(COMMAND):
        return "command"
    if message.channel_id == SYSTEM or not message.from_uid:
        return "system"
    skip = message_skip(message, payload_type, policy, now)
    return skip.reason if skip else ""


def readings(message: Message) -> tuple[str, ...]:
    """Everybody whom the channel of a person message may mean; nobody where the sender wrote to themselves.

    v2 gives the receiver, v3 both uids joined by `@`, the one with the greater CRC32 first. A uid may hold `@` itself,
    so that one channel can be read in up to three ways.
    """
    sender, channel = message.from_uid, message.channel_id
    if channel in (sender, f"{sender}@{sender}"):
        return ()
    found = []
    if channel.startswith(sender + "@"):
        found.append(channel[len(sender) + 1 :])
    if channel.endswith("@" + sender):
        found.append(channel[: -len(sender) - 1])
    return (*(uid for uid in found if uid and channel == _joined(sender, uid)), *([channel] if channel else ()))


def _joined(a: str, b: str) -> str:
    """v3's channel for a message of the first to the second; the order is that of captured requests."""
    return f"{a}@{b}" if crc32(a.encode()) > crc32(b.encode()) else f"{b}@{a}"


def left_out(connections: Connections, online: frozenset[int] | None, *, policy: Policy, came_at: int, now: int) -> str:
    """Why this user is not pushed a message that `msg.offline` did not name them for, "" where they are.

    online: the device flags that the server named when it was asked, None where it said nothing. came_at: when
    `msg.notify` brought the message.

    The server names nobody who is online, so with `presence.suppress: none` too it lost nothing for them.
    """
    suppress = "any" if policy.suppress == "none" else policy.suppress
    relevant = {flag: c for flag, c in connections.items() if suppress == "any" or flag == APP}
    late = min(LATE, policy.hold)
    if any(min(c.since, c.closed_at) > came_at + late for c in relevant.values()):
        # They left later than an offline event can be late, so they were there when the message came. A record that
        # was corrected after the server was asked has a `since` but no close: when they left is not known.
        return "was_online"
    if online is not None:
        return "online" if (online if suppress == "any" else online & {APP}) else ""
    match looks(relevant, suppress, policy.ttl, now):
        case Looks.ONLINE:
            return "online"
        case Looks.DOUBTFUL:
            return "unknown"
        case _:
            return "" if relevant else "unknown"
