"""Export to ONNX, optionally with preprocessing and softmax in the graph.

The core takes normalized pixels and gives logits, for any number of photos. On request the graph
also prepares photos of any size itself (upright RGB bytes in), and ends in calibrated
probabilities. Labels, preprocessing and calibration are in its metadata under the key ``finetune``.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from finetune.errors import MissingExtra, ModelError
from finetune.files import write_atomically
from finetune.models.feature_backends import features_of
from finetune.photos.preprocessing import Preprocessing
from finetune.prediction.engine import ModelMetadata, PredictProba
from finetune.prediction.export.torchscript import ExportModule
from finetune.prediction.onnx_engine import (
    DISTANCE_KEY,
    FEATURES,
    LOGITS,
    METADATA_KEY,
    PHOTOS,
    PIXELS,
    PROBABILITIES,
    OnnxEngine,
    center_of,
    normalized,
)
from finetune.prediction.torch_engine import TorchEngine

if TYPE_CHECKING:
    import onnx

Precision = Literal["fp32", "fp16", "int8"]

OPSET = 18
"""ONNX opset: the first with antialiased resizing."""


def export_onnx(
    engine: TorchEngine,
    path: Path,
    *,
    precision: Precision = "fp32",
    with_preprocessing: bool = False,
    with_softmax: bool = False,
    calibration: Sequence[NDArray[np.uint8]] = (),
) -> Path:
    """Writes a network as an ONNX file and returns its path.

    Args:
        engine: The network, on the CPU.
        path: The file.
        precision: Of weights and arithmetic; ``int8`` needs photos to calibrate with.
        with_preprocessing: Take ``photos (B, H, W, 3) uint8`` and resize, crop and normalize them
            in the graph; else take ``pixels (B, C, S, S) float32``, normalized already.
        with_softmax: Give ``probabilities`` beside ``logits``, divided by the temperature first
            (sigmoids where a photo may have several labels).
        calibration: Working images ``(S, S, 3) uint8`` from which int8 takes its ranges.

    Raises:
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.
        ModelError: Torch cannot express this network in ONNX, or int8 has no photos.
        StorageError: The file cannot be written.
    """
    onnx = _onnx()
    model = _traced(engine)
    if precision == "fp16":
        model = _in_half(model)
    elif precision == "int8":
        model = _in_int8(model, engine.metadata.preprocessing, calibration)
    if with_preprocessing:
        model = _with_preprocessing(model, engine.metadata)
    if with_softmax:
        _add_softmax(model, engine.metadata)
    metadata = {METADATA_KEY: json.dumps(engine.metadata.to_dict(), ensure_ascii=False)}
    unknown = engine.metadata.unknown
    if unknown is not None and unknown.distance is not None:
        packed = base64.b64encode(save(dict(unknown.distance.to_tensors())))
        metadata[DISTANCE_KEY] = packed.decode("ascii")
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    model.doc_string = f"{engine.metadata.model}, {len(engine.metadata.labels)} labels"
    model.producer_name = "finetune"
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"The exported graph is not valid ONNX: {error}") from error
    return write_atomically(path, lambda file: file.write(model.SerializeToString()))


def _onnx() -> Any:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtra(package, "onnx", "Exporting to ONNX") from error
    import onnx

    return onnx


def _traced(engine: TorchEngine) -> onnx.ModelProto:
    """Returns the core: ``pixels (batch, C, S, S) float32`` to ``logits (batch, labels)``.

    Where the detector of unknown photos needs them, also to ``features (batch, F)``.
    """
    size = engine.metadata.preprocessing.size
    network, outputs = engine.module.eval(), [LOGITS]
    if engine.metadata.unknown is not None and engine.metadata.unknown.needs_features:
        network, outputs = _WithFeatures(network).eval(), [LOGITS, FEATURES]
    # Two photos: the exporter would fix a batch size of one.
    example = torch.zeros(2, engine.metadata.preprocessing.channels, size, size)
    try:
        model = _to_onnx(network, example, PIXELS, ["batch"], outputs)
    except Exception as error:  # torch's exporter raises many types
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{engine.metadata.model} cannot be exported to ONNX: {first}") from error
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def _to_onnx(
    module: torch.nn.Module, example: torch.Tensor, name: str, axes: Sequence[str], out: list[str]
) -> onnx.ModelProto:
    """Returns the graph of a module with one input, whose first `axes` have any length."""
    with _silenced(), torch.no_grad():
        program = torch.onnx.export(
            module,
            (example,),
            input_names=[name],
            output_names=out,
            dynamic_shapes=({number: torch.export.Dim(axis) for number, axis in enumerate(axes)},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ModelError("torch exported nothing.")
    model: onnx.ModelProto = program.model_proto
    # Source lines of the exporting program are useless to users of the file.
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    model.graph.ClearField("value_info")
    return model


class _WithFeatures(torch.nn.Module):
    """Network that also returns the input of its linear head."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = features_of(self.network, pixels)
        head: Any = self.network.get_classifier()  # type: ignore[operator]
        return head(features), features


def _in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _silenced():
        half: onnx.ModelProto = convert_float_to_float16(
            model, keep_io_types=True, disable_shape_infer=False
        )
    _sort(half.graph)
    return half


def _sort(graph: onnx.GraphProto) -> None:
    """Sorts nodes topologically; a converter may append some at the end."""
    waiting = list(graph.node)
    known = {"", *(value.name for value in (*graph.input, *graph.initializer))}
    del graph.node[:]
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        if not ready:
            raise ModelError("The exported graph has a loop.")
        graph.node.extend(ready)
        known.update(name for node in ready for name in node.output)
        done = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in done]


def _in_int8(
    model: onnx.ModelProto, preprocessing: Preprocessing, calibration: Sequence[NDArray[np.uint8]]
) -> onnx.ModelProto:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization.quantize import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not calibration:
        raise ModelError("int8 needs photos to calibrate with. Name some with --photos.")

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images = iter(calibration)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self._images, None)
            if image is None:
                return None
            return {PIXELS: normalized(center_of(image[None], preprocessing.size), preprocessing)}

    with tempfile.TemporaryDirectory() as folder, _silenced():
        source, ready, done = (Path(folder) / f"{name}.onnx" for name in ("fp32", "fused", "int8"))
        onnx.save(model, source)
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(done),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        quantized: onnx.ModelProto = onnx.load(done)
        return quantized


def _with_preprocessing(model: onnx.ModelProto, metadata: ModelMetadata) -> onnx.ModelProto:
    """Returns a model that takes ``photos (batch, height, width, 3) uint8``."""
    from onnx import compose

    before = preprocessing_graph(metadata)
    before.ir_version = model.ir_version
    before = compose.add_prefix(before, "prepare/", rename_inputs=False, rename_outputs=False)
    return compose.merge_models(before, model, io_map=[(PIXELS, PIXELS)])


def preprocessing_graph(metadata: ModelMetadata) -> onnx.ModelProto:
    """Returns the graph from ``photos (batch, height, width, 3) uint8`` to ``pixels``."""
    module = ExportModule(torch.nn.Identity(), metadata, with_preprocessing=True).eval()
    # Unequal sides: the exporter would fix equal ones, and those of the working image.
    side = metadata.preprocessing.working_size
    example = torch.zeros(2, side + 7, side + 12, 3, dtype=torch.uint8)
    return _to_onnx(module, example, PHOTOS, ["batch", "height", "width"], [PIXELS])


def _add_softmax(model: onnx.ModelProto, metadata: ModelMetadata) -> None:
    from onnx import TensorProto, helper

    temperature = helper.make_tensor(
        "temperature", TensorProto.FLOAT, [], [metadata.task.temperature]
    )
    scaled = "calibrated_logits"
    model.graph.initializer.append(temperature)
    model.graph.node.extend(
        [
            helper.make_node("Div", [LOGITS, "temperature"], [scaled]),
            helper.make_node("Sigmoid", [scaled], [PROBABILITIES])
            if metadata.task.activation == "sigmoid"
            else helper.make_node("Softmax", [scaled], [PROBABILITIES], axis=-1),
        ]
    )
    shape: list[str | int | None] = ["batch", len(metadata.labels)]
    model.graph.output.insert(
        0, helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, shape)
    )


def onnx_predict_proba(
    target: Path, *, with_preprocessing: bool, with_softmax: bool
) -> PredictProba:
    """Returns the predict function of an ONNX file."""
    exported = OnnxEngine.load(target)

    def predict_proba(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        # Users of the file get the graph's own preprocessing.
        if with_softmax and with_preprocessing:
            row = exported.session.run([PROBABILITIES], {PHOTOS: np.ascontiguousarray(images)})[0]
            return np.asarray(row, dtype=np.float64)
        if with_preprocessing:
            logits = exported.session.run(None, {PHOTOS: np.ascontiguousarray(images)})[0]
        else:
            logits = exported.logits(images)
        return exported.metadata.task.probabilities(logits)

    return predict_proba


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Silences the exporters' logs: failures raise, and the result is verified."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
