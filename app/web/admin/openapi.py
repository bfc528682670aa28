"""The OpenAPI document, made from the routes and the structs that requests are checked against."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from app.admin.devices import DeviceBody, DeviceLine, RestoreBody
from app.admin.fields import Ids
from app.web.admin.routes import Answer, Context, Route, Takes

PATH = "/openapi.json"
_REFS = "#/components/schemas/{name}"
_JSON, _NDJSON = "application/json", "application/x-ndjson"


class ErrorText(Struct, frozen=True):
    """What is wrong. `message` names the field, what was found and what is allowed."""

    code: str
    message: str


class Error(Struct, frozen=True):
    """Every answer that is no success."""

    error: ErrorText


class Document(Struct, frozen=True):
    """An OpenAPI document."""

    openapi: str


def route(others: Sequence[Route], providers: Iterable[str]) -> Route:
    """The route that serves the document of these routes and of itself. providers: the configured names."""

    def get(_context: Context) -> Answer:
        return Answer(200, described)

    own = Route(
        method="GET",
        path=PATH,
        name="get_openapi",
        view=get,
        summary="This document.",
        answers={200: ("OpenAPI 3.1.", Document)},
    )
    described = document([*others, own], providers)
    return own


def document(routes: Sequence[Route], providers: Iterable[str]) -> dict[str, Any]:
    """OpenAPI 3.1 for these routes, where devices are registered with one of these providers."""
    structs: set[type[Struct]] = {Error, Ids, DeviceBody, DeviceLine, RestoreBody}
    for each in routes:
        structs.update(struct for _, struct in each.answers.values() if struct)
        structs.update(struct for struct in (each.body, each.query) if struct)
    ordered = sorted(structs, key=lambda struct: struct.__name__)
    _, schemas = msgspec.json.schema_components(ordered, ref_template=_REFS)
    for struct in (DeviceBody, DeviceLine, RestoreBody):
        schemas[struct.__name__]["properties"]["provider"] = {"enum": sorted(providers)}
    paths: dict[str, dict[str, Any]] = {}
    for each in routes:
        paths.setdefault(f"/admin/v1{each.path}", {})[each.method.lower()] = _operation(each, schemas)
    only_parameters = {Ids.__name__, *(each.query.__name__ for each in routes if each.query)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pushbridge admin API", "version": "1"},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {name: schema for name, schema in schemas.items() if name not in only_parameters},
        },
    }


def _operation(each: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": each.name, "summary": each.summary}
    parameters = [*_path_parameters(each, schemas), *_query_parameters(each, schemas)]
    if parameters:
        operation["parameters"] = parameters
    if each.body:
        operation["requestBody"] = _request_body(each, each.body)
    operation["responses"] = _responses(each)
    return operation


def _path_parameters(each: Route, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    properties = schemas[Ids.__name__]["properties"]
    return [{"name": name, "in": "path", "required": True, "schema": properties[name]} for name in id_names(each.path)]


def id_names(path: str) -> list[str]:
    """The ids in a route's path, in their order."""
    return re.findall(r"{(\w+)}", path)


def _query_parameters(each: Route, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    properties = schemas[each.query.__name__]["properties"] if each.query else {}
    return [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]


def _request_body(each: Route, body: type[Struct]) -> dict[str, Any]:
    reference = {"$ref": _REFS.format(name=body.__name__)}
    if each.takes is Takes.LINES:
        described = f"One JSON object a line, each as {reference['$ref']} has it."
        return {
            "required": True,
            "content": {_NDJSON: {"schema": {"type": "string", "minLength": 1, "description": described}}},
        }
    return {"required": each.takes is not Takes.OPTIONAL, "content": {_JSON: {"schema": reference}}}


def _responses(each: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, (meaning, struct) in each.answers.items():
        responses[str(status)] = _response(meaning, struct)
    refusals = {
        400: "The request cannot be used; the message names the field.",
        401: "The token is missing or wrong.",
        **each.refuses,
    }
    if each.path != PATH:
        refusals.setdefault(503, "The database cannot be used.")
    if each.body:
        refusals[413] = "The body is too long."
    for status, meaning in sorted(refusals.items()):
        responses[str(status)] = _response(meaning, Error)
    return responses


def _response(meaning: str, struct: type[Struct] | None) -> dict[str, Any]:
    if struct is None:
        return {"description": meaning}
    return {"description": meaning, "content": {_JSON: {"schema": {"$ref": _REFS.format(name=struct.__name__)}}}}
