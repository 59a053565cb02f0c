"""What computes a frozen backbone's features on the CPU: torch, or something quicker that agrees.

An engine other than torch has to give torch's features for a batch of probe photos before it is
used, each time that it is made; where it does not, or cannot be made, torch goes on.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from finetune.files import write_atomically

TOLERANCE = 1e-4
"""Largest difference to torch that a feature may show, as a share of the largest feature.

Two exact engines add the same float32 numbers in another order and come to about 1e-6; one that
rounds to 16 bits or fewer somewhere comes to 1e-3 and more.
"""

WORTHWHILE_PHOTOS = 2000
"""Photos of 224 pixels from which another engine is made, as making it costs time once.

By `benchmarks/engines.py` it pays from 800 photos for ResNet-50, from 2,100 for MobileNetV2 and
EfficientNet-B0, and from 8,600 for the embedded backbone, which loses 2 seconds at most before. It
is a number and not a stopwatch so that one collection always takes one engine: the engines differ
in the last bits, and equal runs must not.
"""

PROBE_PHOTOS = 8

ENGINES = ("onnxruntime", "openvino")
"""Tried in this order, the quickest first (`benchmarks/engines.py`)."""

Features = Callable[[Tensor], Tensor]
"""Normalized photos ``(B, 3, S, S) float32`` to features ``(B, F) float32``."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What computes features.

    Attributes:
        name: ``torch``, ``onnxruntime`` or ``openvino``.
        features: The computation.
        note: What a person should know of how it was chosen, or None.
    """

    name: str
    features: Features
    note: str | None = None


class _Backbone(nn.Module):
    """A network without its head, as one module that can be exported."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> Tensor:
        return features_of(self.module, pixels)


def features_of(module: nn.Module, pixels: Tensor) -> Tensor:
    """Returns what the head sees, ``(B, F)``, of normalized photos ``(B, C, S, S)``."""
    maps = module.forward_features(pixels)  # type: ignore[operator]
    features: Tensor = module.forward_head(maps, pre_logits=True)  # type: ignore[operator]
    return features


def torch_engine(module: nn.Module, *, note: str | None = None) -> Engine:
    """Returns the engine that is always there; the photos are laid out as the backbone likes."""

    @torch.inference_mode()
    def features(pixels: Tensor) -> Tensor:
        # How much quicker channels last is: benchmarks/engines.py.
        laid_out = pixels.contiguous(memory_format=torch.channels_last)
        return features_of(module, laid_out).float()

    return Engine(name="torch", features=features, note=note)


def is_worthwhile(photos: int, shape: tuple[int, int, int]) -> bool:
    """Returns whether so many photos, of channels, height and width, are worth another engine."""
    _, height, width = shape
    return photos * height * width >= WORTHWHILE_PHOTOS * 224 * 224


def quickest_engine(
    module: nn.Module, *, shape: tuple[int, int, int], photos: int, graph: Path
) -> Engine:
    """Returns what computes the features of so many photos soonest.

    Args:
        module: The network, in eval mode on its device.
        shape: Channels, height and width of a photo as the network sees it.
        photos: How many there are in all, those with features already counted in: the choice must
            not depend on where a killed run stopped.
        graph: Where the exported backbone is kept for the next time.
    """
    device = next(module.parameters()).device
    if device.type != "cpu" or not is_worthwhile(photos, shape):
        return torch_engine(module)
    # Of photos' spread rather than of zeros, which would hide a layer that goes wrong.
    probe = torch.randn(PROBE_PHOTOS, *shape, generator=torch.Generator().manual_seed(0))
    wanted = torch_engine(module).features(probe)
    for name, make in _INSTALLED.items():
        try:
            found = make(module, probe, graph)
        except ImportError:
            continue
        except Exception as error:  # noqa: BLE001 - exporters raise whatever their passes do
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            logger.debug("%s: %s", name, error)
            return torch_engine(
                module, note=f"{name} cannot run this backbone ({reason}); torch does it."
            )
        difference = disagreement(found(probe), wanted)
        if not difference <= TOLERANCE:
            return torch_engine(
                module,
                note=f"{name} gives other features than torch (by {difference:.1g} of the largest, "
                f"and {TOLERANCE:g} is allowed); torch does it.",
            )
        return Engine(
            name=name,
            features=found,
            note=f"Features of {photos:,} photos by {name}, which agrees with torch to "
            f"{difference:.1g}.",
        )
    return torch_engine(module)


def disagreement(found: Tensor, wanted: Tensor) -> float:
    """Returns the largest difference as a share of the largest wanted feature; NaN if not finite.

    Args:
        found: ``(B, F)``.
        wanted: ``(B, F)``.
    """
    if found.shape != wanted.shape:
        return float("inf")
    scale = wanted.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((found - wanted).abs().max() / scale)


def _onnxruntime(module: nn.Module, probe: Tensor, graph: Path) -> Features:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Without this it takes every core, whatever torch and OMP_NUM_THREADS were told.
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        _exported(module, probe, graph), options, providers=["CPUExecutionProvider"]
    )

    def features(pixels: Tensor) -> Tensor:
        given = pixels.contiguous().numpy()
        return torch.from_numpy(session.run(None, {"pixels": given})[0])

    return features


def _openvino(module: nn.Module, probe: Tensor, graph: Path) -> Features:
    import openvino

    core = openvino.Core()
    model = core.read_model(_exported(module, probe, graph))
    settings = {
        # Its default on some processors is bfloat16, which is not exact.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    compiled = core.compile_model(model, "CPU", settings)

    def features(pixels: Tensor) -> Tensor:
        # Copied: the result's memory is used again by the next batch.
        return torch.from_numpy(compiled(pixels.contiguous().numpy())[0].copy())

    return features


_INSTALLED: dict[str, Callable[[nn.Module, Tensor, Path], Features]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def _exported(module: nn.Module, probe: Tensor, graph: Path) -> bytes:
    """Returns the backbone as an ONNX graph, from `graph` where it was exported before."""
    with contextlib.suppress(OSError):
        return graph.read_bytes()
    backbone = _Backbone(module).eval()
    with _silenced(), torch.no_grad():
        program = torch.onnx.export(
            backbone,
            (probe[:2],),
            input_names=["pixels"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch exported nothing")
    content: bytes = program.model_proto.SerializeToString()
    # A graph that cannot be kept is exported again the next time.
    with contextlib.suppress(OSError):
        graph.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(graph, lambda file: file.write(content))
    return content


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keeps the exporter's progress and its dependencies' warnings from the person."""
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
