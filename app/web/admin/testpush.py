"""Test pushes."""

from __future__ import annotations

from app.admin import testpush
from app.admin.testpush import TestBody, TestReport
from app.store.writer import NotStored
from app.web.admin.routes import Answer, Context, NotThere, Route, Takes
from app.web.admin.turns import turn
from app.web.errors import ApiError

_NO_DEVICE = "The user has no device."
_BUSY = "Other test pushes are being waited for; try again in a few seconds."
_NOT_STORED = "The push could not be stored."


def post(context: Context, uid: str, body: TestBody) -> Answer:
    with turn(context.waiting, _BUSY):
        try:
            report = testpush.send(context.database, context.intake, uid, body, context.patience)
        except NotStored as error:
            raise ApiError(503, "unavailable", f"{_NOT_STORED[:-1]}: {error}.") from error
    if report is None:
        raise NotThere
    return Answer(200, report)


ROUTES = (
    Route(
        method="POST",
        path="/users/{uid}/test",
        name="send_test",
        view=post,
        summary=f"Send a test push to each device of a user, and wait up to {testpush.PATIENCE:.0f} s for the answers.",
        body=TestBody,
        takes=Takes.OPTIONAL,
        answers={200: ("What became of it for each device.", TestReport)},
        refuses={404: _NO_DEVICE, 429: _BUSY, 503: _NOT_STORED},
    ),
)
