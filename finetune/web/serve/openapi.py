"""The OpenAPI description of the prediction server."""

from __future__ import annotations

from typing import Any

from finetune import __version__
from finetune.prediction.model_metadata import ModelMetadata
from finetune.web.serve.batching import Limits


def describe(
    metadata: ModelMetadata, limits: Limits, *, with_key: bool, explains: bool
) -> dict[str, Any]:
    """Returns an OpenAPI 3.1 document of what this server answers.

    Args:
        metadata: The network's labels.
        limits: The bounds that it keeps.
        with_key: Whether a key is wanted.
        explains: Whether ``/v1/explain`` is there.
    """
    paths: dict[str, Any] = {
        "/v1/predict": {"post": _predict(limits)},
        "/v1/model": {
            "get": {
                "summary": "Labels, preprocessing and calibration.",
                "responses": {"200": _json("The model.", {"type": "object"})},
            }
        },
        "/healthz": {
            "get": {
                "summary": "Whether the server answers.",
                "security": [],
                "responses": {"200": _json("It does.", {"type": "object"})},
            }
        },
        "/metrics": {
            "get": {
                "summary": "Counters for Prometheus.",
                "responses": {"200": {"description": "Text.", "content": {"text/plain": {}}}},
            }
        },
        "/openapi.json": {
            "get": {
                "summary": "This description.",
                "responses": {"200": _json("It.", {"type": "object"})},
            }
        },
    }
    if explains:
        paths["/v1/explain"] = {"post": _explain()}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": f"finetune: {metadata.name}",
            "version": __version__,
            "description": f"Says which of {len(metadata.labels)} labels a photo shows.",
        },
        "paths": paths,
        "components": {"schemas": _schemas(metadata)},
    }
    if with_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _predict(limits: Limits) -> dict[str, Any]:
    return {
        "summary": "What is on photos.",
        "description": (
            f"One photo as the body, or up to {limits.request_photos} as fields of a form; "
            f"{limits.body_bytes >> 20} MiB and {limits.max_pixels / 1e6:g} megapixels a photo at "
            "most."
        ),
        "parameters": [
            {
                "name": "top",
                "in": "query",
                "description": "How many labels to give; all where it is left out.",
                "schema": {"type": "integer", "minimum": 1},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": {"type": "string", "format": "binary"}},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "photo": {
                                "type": "array",
                                "items": {"type": "string", "format": "binary"},
                            }
                        },
                    }
                },
            },
        },
        "responses": {
            "200": _json(
                "One answer a photo, in the order sent. A photo of a form that cannot be opened "
                "has its reason as status.",
                {"type": "array", "items": {"$ref": "#/components/schemas/Answer"}},
            ),
            **_refusals(),
        },
    }


def _explain() -> dict[str, Any]:
    return {
        "summary": "Where on a photo a label was seen, by Grad-CAM.",
        "parameters": [
            {
                "name": "label",
                "in": "query",
                "description": "The label to explain; the likeliest where it is left out.",
                "schema": {"type": "string"},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
        },
        "responses": {
            "200": {"description": "The photo, tinted.", "content": {"image/png": {}}},
            **_refusals(),
        },
    }


def _refusals() -> dict[str, Any]:
    reasons = {
        "400": "No photo, a broken form, or a wrong Host.",
        "401": "No key, or a wrong one.",
        "403": "From another site.",
        "408": "The body came too slowly.",
        "413": "The body, or the number of photos, is too large.",
        "415": "Neither a photo nor a form.",
        "422": "The photo cannot be opened.",
        "503": "The queue is full; Retry-After says when to come again.",
        "504": "It took too long.",
    }
    error = {"$ref": "#/components/schemas/Error"}
    return {status: _json(text, error) for status, text in reasons.items()}


def _schemas(metadata: ModelMetadata) -> dict[str, Any]:
    return {
        "Answer": {
            "type": "object",
            "required": ["photo", "status", "ranked", "unknown"],
            "properties": {
                "photo": {"type": ["string", "null"], "description": "Name of the form's file."},
                "status": {"type": "string", "description": "ok, or why it cannot be opened."},
                **_labels_said(metadata),
                "ranked": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["label", "probability"],
                        "properties": {
                            "label": {"type": "string", "enum": list(metadata.labels)},
                            "probability": {"type": "number", "minimum": 0, "maximum": 1},
                            **(
                                {"predicted": {"type": "boolean"}}
                                if metadata.task.multi_label
                                else {}
                            ),
                        },
                    },
                },
                "unknown": {"type": "boolean", "description": "Perhaps none of these."},
            },
        },
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {"error": {"type": "string"}},
        },
    }


def _labels_said(metadata: ModelMetadata) -> dict[str, Any]:
    if not metadata.task.multi_label:
        return {}
    items = {"type": "string", "enum": list(metadata.labels)}
    text = "All labels that reach their threshold, the likeliest first."
    return {"labels": {"type": "array", "items": items, "description": text}}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
