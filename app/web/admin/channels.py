"""Names of channels."""

from __future__ import annotations

from app.admin.people import ChannelBody, ChannelShown
from app.store import people
from app.web.admin.routes import Answer, Context, NotThere, Route

_UNKNOWN = "The channel has no name."
_PATH = "/channels/{channel_type}/{channel_id}"


def put(context: Context, channel_type: int, channel_id: str, body: ChannelBody) -> Answer:
    with context.database.write() as connection:
        is_new = people.put_channel(connection, channel_type, channel_id, body.name)
    return Answer(201 if is_new else 200, ChannelShown(channel_type, channel_id, body.name))


def get(context: Context, channel_type: int, channel_id: str) -> Answer:
    key = channel_type, channel_id
    with context.database.read() as connection:
        name = people.channel_names(connection, [key]).get(key)
    if name is None:
        raise NotThere
    return Answer(200, ChannelShown(channel_type, channel_id, name))


def delete(context: Context, channel_type: int, channel_id: str) -> Answer:
    with context.database.write() as connection:
        if not people.remove_channel(connection, channel_type, channel_id):
            raise NotThere
    return Answer(204)


ROUTES = (
    Route(
        method="PUT",
        path=_PATH,
        name="put_channel",
        view=put,
        summary="Name a channel.",
        body=ChannelBody,
        answers={200: ("Renamed.", ChannelShown), 201: ("Named for the first time.", ChannelShown)},
    ),
    Route(
        method="GET",
        path=_PATH,
        name="get_channel",
        view=get,
        summary="The name of a channel.",
        answers={200: ("The channel.", ChannelShown)},
        refuses={404: _UNKNOWN},
    ),
    Route(
        method="DELETE",
        path=_PATH,
        name="delete_channel",
        view=delete,
        summary="Forget the name of a channel.",
        answers={204: ("Forgotten.", None)},
        refuses={404: _UNKNOWN},
    ),
)
