"""OpenAPI document of the prediction server; its schemas come from the response types."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from finetune import __version__
from finetune.prediction.engine import ModelMetadata
from finetune.prediction.predictions import PredictionJson, RankedJson
from finetune.web.serve.batching import Limits


class HealthJson(TypedDict):
    """Response of ``/healthz``: "ok", and the number of photos waiting or in progress."""

    status: str
    photos: int


class ErrorJson(TypedDict):
    """Reason why a request was refused."""

    error: str


_REFUSALS = {
    "400": "No photo, a malformed form, or a wrong Host.",
    "401": "No key, or a wrong one.",
    "403": "Request from another site.",
    "408": "The body arrived too slowly.",
    "413": "The body is too large.",
    "415": "Neither a photo nor a form.",
    "422": "The photo cannot be opened.",
    "503": "The queue is full; Retry-After is the time to wait.",
    "504": "The prediction took too long.",
}

_BINARY = {"schema": {"type": "string", "format": "binary"}}


def describe(
    metadata: ModelMetadata, limits: Limits, *, with_key: bool, explains: bool
) -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document of the server.

    Args:
        metadata: The network's labels.
        limits: Bounds on requests.
        with_key: Whether clients must send a key.
        explains: Whether ``/v1/explain`` exists.
    """
    schemas, components = _schemas(metadata)
    form = {"photo": {"type": "array", "items": _BINARY["schema"]}}
    refusals = {status: _response(reason, schemas["error"]) for status, reason in _REFUSALS.items()}
    paths: dict[str, Any] = {
        "/v1/predict": {
            "post": {
                "summary": "Predicts the labels of photos.",
                "description": f"One photo as the body, or up to {limits.request_photos} photos as "
                f"files of a form. At most {limits.body_bytes >> 20} MiB a request and "
                f"{limits.max_pixels / 1e6:g} megapixels a photo.",
                "parameters": [_query("top", "Number of labels; default: all.", minimum=1)],
                "requestBody": {
                    "required": True,
                    "content": {
                        "image/*": _BINARY,
                        "application/octet-stream": _BINARY,
                        "multipart/form-data": {"schema": {"type": "object", "properties": form}},
                    },
                },
                "responses": {
                    "200": _response("Predictions in the order sent.", schemas["predictions"]),
                    **refusals,
                },
            }
        },
        "/v1/preview": {
            "post": {
                "summary": "Returns a photo as a small JPEG, for browsers that cannot show it.",
                "requestBody": {"required": True, "content": {"image/*": _BINARY}},
                "responses": {
                    "200": {"description": "The photo.", "content": {"image/jpeg": _BINARY}},
                    **refusals,
                },
            }
        },
        "/docs": _get("Returns this description as a page.", {"type": "string"}, "text/html"),
        "/v1/model": _get("Returns labels, preprocessing and calibration.", {"type": "array"}),
        "/healthz": _get("Returns whether the server is up.", schemas["health"]),
        "/metrics": _get("Returns metrics for Prometheus.", {"type": "string"}, "text/plain"),
        "/openapi.json": _get("Returns this document.", {"type": "object"}),
    }
    paths["/healthz"]["get"]["security"] = []
    if explains:
        image = {"description": "The photo with a heatmap.", "content": {"image/png": _BINARY}}
        paths["/v1/explain"] = {
            "post": {
                "summary": "Shows where on a photo the network sees a label, by Grad-CAM.",
                "parameters": [_query("label", "Label to explain; default: the likeliest.")],
                "requestBody": {"required": True, "content": {"image/*": _BINARY}},
                "responses": {"200": image, **refusals},
            }
        }
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": f"finetune: {metadata.name}",
            "version": __version__,
            "description": f"Classifies photos into {len(metadata.labels)} labels.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if with_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _schemas(metadata: ModelMetadata) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the schemas of the responses by name, and the components that they refer to."""
    types: dict[str, Any] = {
        "predictions": list[PredictionJson],
        "error": ErrorJson,
        "health": HealthJson,
    }
    by_key, definitions = TypeAdapter.json_schemas(
        [(name, "serialization", TypeAdapter(of)) for name, of in types.items()],
        ref_template="#/components/schemas/{model}",
    )
    components = definitions["$defs"]
    ranked, prediction = (components[of.__name__] for of in (RankedJson, PredictionJson))
    ranked["properties"]["label"]["enum"] = list(metadata.labels)
    ranked["properties"]["probability"] |= {"minimum": 0, "maximum": 1}
    prediction["properties"]["labels"]["items"]["enum"] = list(metadata.labels)
    return {name: schema for (name, _), schema in by_key.items()}, components


def _query(name: str, description: str, *, minimum: int | None = None) -> dict[str, Any]:
    number = {"type": "integer", "minimum": minimum}
    schema = {"type": "string"} if minimum is None else number
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _get(summary: str, schema: Any, media_type: str = "application/json") -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": {"200": _response("OK", schema, media_type)}}}


def _response(description: str, schema: Any, media_type: str = "application/json") -> Any:
    return {"description": description, "content": {media_type: {"schema": schema}}}
