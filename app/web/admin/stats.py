"""How the bridge is doing."""

from __future__ import annotations

from app.admin import figures
from app.admin.figures import Stats
from app.web.admin.routes import Answer, Context, Route


def get(context: Context) -> Answer:
    return Answer(200, figures.stats(context.database, context.now()))


ROUTES = (
    Route(
        method="GET",
        path="/stats",
        name="get_stats",
        view=get,
        summary="What waits, who is there, and what the dispatchers say of themselves and their providers.",
        answers={200: ("The figures.", Stats)},
    ),
)
