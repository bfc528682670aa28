"""Users as a whole."""

from __future__ import annotations

from app.admin import people
from app.web.admin.routes import Answer, Context, Route


def delete(context: Context, uid: str) -> Answer:
    people.erase(context.database, uid)
    return Answer(204)


ROUTES = (
    Route(
        method="DELETE",
        path="/users/{uid}",
        name="delete_user",
        view=delete,
        summary="Forget a user: devices, settings, presence, waiting pushes and trace.",
        answers={204: ("Forgotten; also where nothing was known.", None)},
    ),
)
