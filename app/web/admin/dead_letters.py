"""Pushes that were given up."""

from __future__ import annotations

from app.admin import tracing
from app.admin.tracing import Letters, LettersQuery, Retried
from app.web.admin.routes import Answer, Context, NotThere, Route

_UNKNOWN = "There is no dead letter of that id."


def get(context: Context, query: LettersQuery) -> Answer:
    rows, following = tracing.letters(context.database, query)
    return Answer(200, Letters(dead_letters=[tracing.letter(row) for row in rows], next=following))


def retry(context: Context, id: int) -> Answer:
    if not tracing.retry(context.database, id, context.now()):
        raise NotThere
    context.poke()
    return Answer(200, Retried(id))


def delete(context: Context, id: int) -> Answer:
    if not tracing.forget(context.database, id):
        raise NotThere
    return Answer(204)


ROUTES = (
    Route(
        method="GET",
        path="/dead-letters",
        name="list_dead_letters",
        view=get,
        summary="Pushes that were given up and can be tried again, the newest first.",
        query=LettersQuery,
        answers={200: ("The dead letters, without their content.", Letters)},
    ),
    Route(
        method="POST",
        path="/dead-letters/{id}/retry",
        name="retry_dead_letter",
        view=retry,
        summary="Try a dead letter again, as if its message had just come.",
        answers={200: ("It is tried again.", Retried)},
        refuses={404: _UNKNOWN},
    ),
    Route(
        method="DELETE",
        path="/dead-letters/{id}",
        name="delete_dead_letter",
        view=delete,
        summary="Let go of a dead letter and its content; its trace stays.",
        answers={204: ("Gone.", None)},
        refuses={404: _UNKNOWN},
    ),
)
