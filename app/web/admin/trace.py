"""Why a push did or did not arrive."""

from __future__ import annotations

from app.admin import tracing
from app.admin.tracing import Trace, TraceQuery
from app.web.admin.routes import Answer, Context, Route


def get(context: Context, query: TraceQuery) -> Answer:
    rows, following = tracing.trace(context.database, query)
    return Answer(200, Trace(records=[tracing.record(row) for row in rows], next=following))


ROUTES = (
    Route(
        method="GET",
        path="/trace",
        name="get_trace",
        view=get,
        summary="What became of messages, the newest first.",
        query=TraceQuery,
        answers={200: ("One record a message and device.", Trace)},
    ),
)
