"""Errors as the outside sees them: `{"error": {"code": …, "message": …}}`."""

from __future__ import annotations

import structlog
from flask import Flask, Response, jsonify
from werkzeug.exceptions import HTTPException

from app.store.dialect import DatabaseError

log = structlog.get_logger()


class ApiError(Exception):
    """Answered with `status` and the error document."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


def install(app: Flask) -> None:
    """Every error of this app is answered as JSON, and none shows more than it should."""

    @app.errorhandler(ApiError)
    def refused(error: ApiError) -> Response:
        return _answer(error.status, error.code, error.message, error.headers)

    @app.errorhandler(HTTPException)
    def routed(error: HTTPException) -> Response:
        status = error.code or 500
        code = (error.name or "error").lower().replace(" ", "_")
        headers = {"Allow": ", ".join(sorted(error.valid_methods or ()))} if status == 405 else {}  # type: ignore[attr-defined]
        return _answer(status, code, error.description or error.name, headers)

    @app.errorhandler(DatabaseError)
    def unavailable(error: Exception) -> Response:
        log.error("database not usable", action="request", error=type(error).__name__)
        return _answer(503, "unavailable", "the database cannot be used", {})

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        log.error("request failed", action="request", exc_info=error)
        return _answer(500, "internal_error", "The request failed; the log says why.", {})


def _answer(status: int, code: str, message: str, headers: dict[str, str]) -> Response:
    response = jsonify(error={"code": code, "message": message})
    response.status_code = status
    response.headers.update(headers)
    return response
