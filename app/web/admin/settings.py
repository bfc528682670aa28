"""Settings of a user."""

from __future__ import annotations

from app.admin import people
from app.admin.people import SettingsBody, SettingsPatch
from app.web.admin.routes import Answer, Context, Route


def get(context: Context, uid: str) -> Answer:
    return Answer(200, people.settings(context.database, uid))


def put(context: Context, uid: str, body: SettingsBody) -> Answer:
    return Answer(200, people.replace_settings(context.database, uid, body))


def patch(context: Context, uid: str, body: SettingsPatch) -> Answer:
    return Answer(200, people.change_settings(context.database, uid, body))


ROUTES = (
    Route(
        method="GET",
        path="/users/{uid}/settings",
        name="get_settings",
        view=get,
        summary="A user's settings; the defaults where nothing was ever set.",
        answers={200: ("The settings.", SettingsBody)},
    ),
    Route(
        method="PUT",
        path="/users/{uid}/settings",
        name="put_settings",
        view=put,
        summary="Set all of a user's settings; what is left out gets its default.",
        body=SettingsBody,
        answers={200: ("The settings now.", SettingsBody)},
    ),
    Route(
        method="PATCH",
        path="/users/{uid}/settings",
        name="patch_settings",
        view=patch,
        summary="Change some of a user's settings; what is left out stays.",
        body=SettingsPatch,
        answers={200: ("The settings now.", SettingsBody)},
    ),
)
