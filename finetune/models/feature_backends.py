"""Backends that compute a frozen backbone's features on the CPU: torch, or ONNX Runtime.

ONNX Runtime must reproduce torch's features of a batch of probe photos each time before it is used;
where it does not, or cannot run the backbone, torch is used.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from finetune.files import write_atomically

TOLERANCE = 1e-4
"""Largest allowed difference from torch, as a share of the largest feature.

Two exact backends sum the same float32 numbers in another order and differ by about 1e-6; one that
rounds to 16 bits or fewer somewhere differs by 1e-3 and more.
"""

MIN_ONNX_PHOTOS = 2000
"""Photos of 224 pixels from which ONNX Runtime is used, as the export takes time once.

By `benchmarks/feature_backends.py` it pays from 800 photos for ResNet-50, from 2,100 for
MobileNetV2 and EfficientNet-B0. It is a constant rather than a measurement so that a collection
always uses the same backend: the backends differ in the last bits, and equal runs must not.
"""

PROBE_PHOTOS = 8

Features = Callable[[Tensor], Tensor]
"""Normalized photos ``(B, 3, S, S) float32`` to features ``(B, F) float32``."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FeatureBackend:
    """Function that computes features, with the reason for its choice.

    Attributes:
        name: ``torch`` or ``onnxruntime``.
        features: The computation.
        note: Reason for the choice; None where there was no choice.
    """

    name: str
    features: Features
    note: str | None = None


def features_of(module: nn.Module, pixels: Tensor) -> Tensor:
    """Returns the head's input, ``(B, F)``, for normalized photos ``(B, C, S, S)``."""
    maps = module.forward_features(pixels)  # type: ignore[operator]
    features: Tensor = module.forward_head(maps, pre_logits=True)  # type: ignore[operator]
    return features


def torch_backend(module: nn.Module, *, note: str | None = None) -> FeatureBackend:
    """Returns the backend that runs the module itself."""

    @torch.inference_mode()
    def features(pixels: Tensor) -> Tensor:
        # channels_last is faster; by how much: benchmarks/feature_backends.py.
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return features_of(module, pixels).float()

    return FeatureBackend(name="torch", features=features, note=note)


def fastest_backend(
    module: nn.Module, *, shape: tuple[int, int, int], photos: int, graph: Path
) -> FeatureBackend:
    """Returns the fastest backend for a number of photos.

    Args:
        module: The network, in eval mode on its device.
        shape: Channels, height and width of the network's input.
        photos: Number of photos in all, including those with features already: the choice must not
            depend on where an interrupted run stopped.
        graph: File that keeps the exported backbone for the next time.
    """
    _, height, width = shape
    worthwhile = photos * height * width >= MIN_ONNX_PHOTOS * 224 * 224
    if next(module.parameters()).device.type != "cpu" or not worthwhile:
        return torch_backend(module)
    # Random photos: zeros could hide a layer that computes something else.
    probe = torch.randn(PROBE_PHOTOS, *shape, generator=torch.Generator().manual_seed(0))
    try:
        features = onnxruntime_features(module, probe, graph)
    except ImportError:
        return torch_backend(module)
    except Exception as error:  # noqa: BLE001 - exporters raise whatever their passes do
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logger.debug("onnxruntime: %s", error)
        note = f"ONNX Runtime cannot run this backbone ({reason}); torch is used."
        return torch_backend(module, note=note)
    difference = relative_difference(features(probe), torch_backend(module).features(probe))
    if not difference <= TOLERANCE:
        note = (
            f"Features by ONNX Runtime differ from torch's by {difference:.1g} of the largest "
            f"({TOLERANCE:g} is allowed); torch is used."
        )
        return torch_backend(module, note=note)
    note = (
        f"Features of {photos:,} photos by ONNX Runtime (differs from torch by {difference:.1g})."
    )
    return FeatureBackend(name="onnxruntime", features=features, note=note)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Returns the largest difference of two ``(B, F)`` as a share of the largest expected feature.

    It is infinite for different shapes and NaN where a feature is not finite.
    """
    if found.shape != expected.shape:
        return float("inf")
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((found - expected).abs().max() / scale)


def onnxruntime_features(module: nn.Module, probe: Tensor, graph: Path) -> Features:
    """Returns a module's features by ONNX Runtime, from `graph` where it was exported before.

    Raises:
        ImportError: onnxruntime or onnxscript is not installed.
        Exception: Anything that the export raises.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # By default it takes every core, regardless of torch's threads and OMP_NUM_THREADS.
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        _exported(module, probe, graph), options, providers=["CPUExecutionProvider"]
    )

    def features(pixels: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"pixels": pixels.contiguous().numpy()})[0])

    return features


class _Backbone(nn.Module):
    """Network without its head, as one module that can be exported."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> Tensor:
        return features_of(self.module, pixels)


def export_backbone(module: nn.Module, shape: Sequence[int]) -> bytes:
    """Returns the ONNX graph from ``pixels (batch, C, S, S)`` to ``features (batch, F)``.

    Args:
        module: The network, in eval mode on the CPU.
        shape: C, S, S.

    Raises:
        ImportError: onnxscript is not installed.
        Exception: Anything that the export raises.
    """
    with _silenced(), torch.no_grad():
        program = torch.onnx.export(
            _Backbone(module).eval(),
            # Two photos: the exporter would fix a batch size of one.
            (torch.zeros(2, *shape),),
            input_names=["pixels"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch exported nothing")
    content: bytes = program.model_proto.SerializeToString()
    return content


def _exported(module: nn.Module, probe: Tensor, graph: Path) -> bytes:
    with contextlib.suppress(OSError):
        return graph.read_bytes()
    content = export_backbone(module, probe.shape[1:])
    # A graph that cannot be saved is exported again the next time.
    with contextlib.suppress(OSError):
        graph.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(graph, lambda file: file.write(content))
    return content


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Suppresses the exporter's progress output and its dependencies' warnings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
