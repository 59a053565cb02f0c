"""ONNX nodes for preprocessing before a network and probabilities after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from finetune.photos.crops import PADDING
from finetune.photos.decode.color import LUMA, LUMA_HALF, LUMA_SCALE
from finetune.photos.preprocessing import Preprocessing
from finetune.tasks.task import Task

Nodes = tuple[list[NodeProto], list[TensorProto]]
"""Nodes in topological order, and their constants."""


class _Builder:
    """Collects nodes and constants under unique names."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._prefix = prefix

    def constant(self, value: Any, dtype: Any) -> str:
        name = f"{self._prefix}/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def channels(self, values: Any) -> str:
        return self.constant(np.asarray(values).reshape(1, -1, 1, 1), np.float32)

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"{self._prefix}/{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, list(inputs), [name], name=f"{name}_node", **attributes)
        )
        return name


def preparation(preprocessing: Preprocessing, photos: str, pixels: str) -> Nodes:
    """Returns the nodes from ``(B, H, W, 3) uint8`` photos to normalized ``(B, C, S, S) float32``.

    Photos are resampled as `finetune.photos.crops.square` does it, by two matrices of Pillow's
    weights, and rounded to whole values after each, as 8-bit images are. A photo that is a working
    square already passes through bit for bit.

    Args:
        preprocessing: What the network expects.
        photos: Name of the input.
        pixels: Name to give to the result.
    """
    graph = _Builder("prepare")
    planes = graph.node("Transpose", photos, perm=[0, 3, 1, 2])
    values = graph.node("Cast", planes, to=TensorProto.FLOAT)
    height, width = (_length(graph, values, axis) for axis in (2, 3))
    side = None
    if preprocessing.fit != "squash":
        side = graph.node("Min" if preprocessing.fit == "crop" else "Max", height, width)
    rows, inside_rows = _weights(graph, height, side, preprocessing)
    columns, inside_columns = _weights(graph, width, side, preprocessing)
    across = _rounded(
        graph, graph.node("MatMul", values, graph.node("Transpose", columns, perm=[1, 0]))
    )
    resized = _rounded(graph, graph.node("MatMul", rows, across))
    if preprocessing.fit == "pad":
        inside = graph.node(
            "And", inside_rows, graph.node("Transpose", inside_columns, perm=[1, 0])
        )
        resized = graph.node("Where", inside, resized, graph.channels(PADDING))
    margin = (preprocessing.working_size - preprocessing.size) // 2
    cut = graph.node(
        "Slice",
        resized,
        graph.integers(margin, margin),
        graph.integers(margin + preprocessing.size, margin + preprocessing.size),
        graph.integers(2, 3),
    )
    if preprocessing.channels == 1:
        cut = _luma(graph, cut)
    share = graph.node("Div", cut, graph.constant(255.0, np.float32))
    less = graph.node("Sub", share, graph.channels(preprocessing.mean))
    last = None if preprocessing.whiten else pixels
    scaled = graph.node("Div", less, graph.channels(preprocessing.std), output=last)
    if preprocessing.whiten:
        _whiten(graph, scaled, preprocessing, pixels)
    return graph.nodes, graph.constants


def probability_nodes(task: Task, logits: str, probabilities: str) -> Nodes:
    """Returns the nodes from logits to ``softmax(logits / temperature)``, or to their sigmoids."""
    graph = _Builder("answer")
    scaled = graph.node("Div", logits, graph.constant(task.temperature, np.float32))
    if task.multi_label:
        graph.node("Sigmoid", scaled, output=probabilities)
    else:
        graph.node("Softmax", scaled, axis=-1, output=probabilities)
    return graph.nodes, graph.constants


def _length(graph: _Builder, values: str, axis: int) -> str:
    shape = graph.node("Shape", values, start=axis, end=axis + 1)
    scalar = graph.node("Squeeze", shape, graph.integers(0))
    return graph.node("Cast", scalar, to=TensorProto.DOUBLE)


def _weights(
    graph: _Builder, length: str, side: str | None, preprocessing: Preprocessing
) -> tuple[str, str]:
    """Returns the weights ``(S, length) float32`` of one axis, and which rows lie on the photo.

    A pixel of the result is centered at ``start + (i + 1/2) scale`` and weighs those of the photo
    by the filter, stretched by `scale` where that is above 1; each row sums to 1.
    """

    def number(value: float) -> str:
        return graph.constant(value, np.float64)

    shown = side or length
    half = graph.node("Mul", graph.node("Sub", length, shown), number(0.5))
    scale = graph.node("Div", shown, number(preprocessing.working_size))
    steps = graph.constant(np.arange(preprocessing.working_size)[:, None], np.float64)
    middles = graph.node("Mul", graph.node("Add", steps, number(0.5)), scale)
    centers = graph.node("Add", half, middles)  # (S, 1)
    stretch = graph.node("Max", scale, number(1.0))
    radius = 1.0 if preprocessing.interpolation == "bilinear" else 2.0
    reach = graph.node("Mul", stretch, number(radius))
    places = graph.node("Range", number(0.0), length, number(1.0))  # (length,)
    low = graph.node("Floor", graph.node("Add", graph.node("Sub", centers, reach), number(0.5)))
    high = graph.node("Floor", graph.node("Add", graph.node("Add", centers, reach), number(0.5)))
    taken = graph.node(
        "And", graph.node("GreaterOrEqual", places, low), graph.node("Less", places, high)
    )
    offsets = graph.node("Sub", graph.node("Add", places, number(0.5)), centers)
    distance = graph.node("Abs", graph.node("Div", offsets, stretch))
    values = _filter(graph, distance, number, cubic=radius == 2.0)
    kept = graph.node("Where", taken, values, number(0.0))
    total = graph.node("ReduceSum", kept, graph.integers(1), keepdims=1)
    # A row of nothing (beyond a padded photo) must not be divided by 0.
    safe = graph.node("Where", graph.node("Equal", total, number(0.0)), number(1.0), total)
    weights = graph.node("Cast", graph.node("Div", kept, safe), to=TensorProto.FLOAT)
    before = graph.node("Add", half, graph.node("Mul", steps, scale))
    after = graph.node("Add", before, scale)
    tolerance = graph.node("Mul", scale, number(1e-6))
    inside = graph.node(
        "And",
        graph.node("GreaterOrEqual", graph.node("Add", before, tolerance), number(0.0)),
        graph.node("LessOrEqual", graph.node("Sub", after, tolerance), length),
    )
    return weights, inside


def _filter(graph: _Builder, distance: str, number: Callable[[float], str], *, cubic: bool) -> str:
    """Returns the filter at a distance: Keys' cubic with a = -1/2 (Pillow's bicubic), or a tent."""
    if not cubic:
        tent = graph.node("Sub", number(1.0), distance)
        return graph.node("Max", tent, number(0.0))

    def polynomial(*coefficients: float) -> str:
        value = number(coefficients[0])
        for coefficient in coefficients[1:]:
            value = graph.node("Add", graph.node("Mul", value, distance), number(coefficient))
        return value

    near = polynomial(1.5, -2.5, 0.0, 1.0)
    far = polynomial(-0.5, 2.5, -4.0, 2.0)
    beyond = graph.node("Where", graph.node("Less", distance, number(2.0)), far, number(0.0))
    return graph.node("Where", graph.node("Less", distance, number(1.0)), near, beyond)


def _rounded(graph: _Builder, values: str) -> str:
    """Rounds half up and clips to 8 bits, as Pillow does."""
    whole = graph.node("Floor", graph.node("Add", values, graph.constant(0.5, np.float32)))
    low, high = (graph.constant(end, np.float32) for end in (0.0, 255.0))
    return graph.node("Clip", whole, low, high)


def _luma(graph: _Builder, values: str) -> str:
    """Returns the luma of whole levels ``(B, 3, S, S) float32``, as `to_gray` does."""
    weighted = graph.node("Mul", values, graph.channels(LUMA))
    total = graph.node("ReduceSum", weighted, graph.integers(1), keepdims=1)
    whole = graph.node("Add", total, graph.constant(LUMA_HALF, np.float32))
    return graph.node("Floor", graph.node("Div", whole, graph.constant(LUMA_SCALE, np.float32)))


def _whiten(graph: _Builder, values: str, preprocessing: Preprocessing, pixels: str) -> None:
    axes = graph.integers(1, 2, 3)
    mean = graph.node("ReduceMean", values, axes, keepdims=1)
    centered = graph.node("Sub", values, mean)
    squares = graph.node("Mul", centered, centered)
    deviation = graph.node("Sqrt", graph.node("ReduceMean", squares, axes, keepdims=1))
    least = graph.constant((preprocessing.channels * preprocessing.size**2) ** -0.5, np.float32)
    graph.node("Div", centered, graph.node("Max", deviation, least), output=pixels)
