"""The web app: the webhook, the admin API, and how the service is."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Flask

from app.bounds import Bounds
from app.intake import Intake
from app.store.dialect import Database
from app.web import errors, health, webhook
from app.web.rawpath import NameConverter, RawPath
from app.web.webhook import Origin


def create_app(
    database: Database,
    intake: Intake,
    origin: Origin,
    max_body: int,
    api: Blueprint,
    now: Callable[[], int],
    bounds: Bounds | None = None,
) -> Flask:
    """`api`: the admin API. `now`: UNIX milliseconds. `bounds`: those that `intake` keeps to."""
    app = Flask("pushbridge", static_folder=None)
    app.url_map.converters["name"] = NameConverter
    app.url_map.merge_slashes = False
    errors.install(app)
    app.register_blueprint(webhook.blueprint(intake, origin, max_body))
    app.register_blueprint(health.blueprint(database, now, bounds))
    app.register_blueprint(api, url_prefix="/admin/v1")
    app.wsgi_app = RawPath(app.wsgi_app)  # type: ignore[method-assign]
    return app
