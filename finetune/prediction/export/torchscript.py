"""Export to TorchScript: a scriptable network with its preprocessing and softmax.

TorchScript reads the annotations of `ExportModule`, so they are not postponed here.
"""

import contextlib
import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from finetune.errors import ModelError
from finetune.files import write_atomically
from finetune.photos.crops import PADDING
from finetune.photos.decode.color import LUMA, LUMA_HALF, LUMA_SCALE
from finetune.prediction.engine import ModelMetadata, PredictProba
from finetune.prediction.onnx_engine import center_of, normalized
from finetune.prediction.torch_engine import TorchEngine

METADATA_FILE = "finetune.json"
"""Extra file of a TorchScript export: labels, preprocessing and calibration."""


class ExportModule(nn.Module):
    """Scriptable network with optional preprocessing and softmax.

    Args:
        network: ``(B, C, S, S) float32 -> (B, labels)``.
        metadata: Preprocessing and calibration.
        with_preprocessing: Take ``(B, H, W, 3) uint8`` photos of any size.
        with_softmax: Give calibrated probabilities in place of logits.
    """

    mean: Tensor
    std: Tensor
    padding: Tensor
    luma: Tensor

    def __init__(
        self,
        network: nn.Module,
        metadata: ModelMetadata,
        *,
        with_preprocessing: bool = False,
        with_softmax: bool = False,
    ) -> None:
        super().__init__()
        preprocessing = metadata.preprocessing
        self.network = network
        self.with_preprocessing = with_preprocessing
        self.with_softmax = with_softmax
        self.size = preprocessing.size
        self.working_size = preprocessing.working_size
        self.fit: str = preprocessing.fit
        self.cubic = preprocessing.interpolation != "bilinear"
        self.whiten = preprocessing.whiten
        self.temperature = metadata.task.temperature
        self.sigmoid = metadata.task.activation == "sigmoid"
        self.channels = preprocessing.channels
        self.luma_half, self.luma_scale = float(LUMA_HALF), float(LUMA_SCALE)
        constants = {
            "mean": preprocessing.mean,
            "std": preprocessing.std,
            "padding": PADDING,
            "luma": LUMA,
        }
        for name, values in constants.items():
            constant = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, constant, persistent=True)

    def forward(self, photos: Tensor) -> Tensor:
        """Returns logits or probabilities ``(B, labels)``."""
        if self.with_preprocessing:
            photos = self.prepared(photos)
        logits: Tensor = self.network(photos)
        if not self.with_softmax:
            return logits
        logits = logits / self.temperature
        return logits.sigmoid() if self.sigmoid else functional.softmax(logits, dim=-1)

    def prepared(self, photos: Tensor) -> Tensor:
        """Returns normalized ``(B, C, S, S) float32`` of photos ``(B, H, W, 3) uint8``."""
        values = photos.permute(0, 3, 1, 2).to(torch.float32)
        height, width = values.shape[2], values.shape[3]
        rows, inside_rows = self.weights(height, self.shown(height, height, width))
        columns, inside_columns = self.weights(width, self.shown(width, height, width))
        # As Pillow: across first, rounded to whole values after each pass.
        values = (values @ columns.t() + 0.5).floor().clamp(0.0, 255.0)
        values = (rows @ values + 0.5).floor().clamp(0.0, 255.0)
        if self.fit == "pad":
            inside = inside_rows & inside_columns.t()
            values = torch.where(inside, values, self.padding)
        margin = (self.working_size - self.size) // 2
        values = values[:, :, margin : margin + self.size, margin : margin + self.size]
        if self.channels == 1:
            levels = (values * self.luma).sum(dim=1, keepdim=True) + self.luma_half
            values = (levels / self.luma_scale).floor()
        values = (values / 255.0 - self.mean) / self.std
        if self.whiten:
            values = values - values.mean(dim=[1, 2, 3], keepdim=True)
            deviation = (values * values).mean(dim=[1, 2, 3], keepdim=True).sqrt()
            count = float(self.channels * self.size * self.size)
            values = values / deviation.clamp_min(count**-0.5)
        return values

    def shown(self, length: int, height: int, width: int) -> int:
        """Returns how many pixels of an axis of `length` the working image shows."""
        if self.fit == "crop":
            return min(height, width)
        if self.fit == "pad":
            return max(height, width)
        return length

    def weights(self, length: int, shown: int) -> tuple[Tensor, Tensor]:
        """Returns Pillow's resampling weights ``(S, length)`` and which rows are on the photo."""
        device = self.mean.device
        scale = torch.full((), shown, dtype=torch.float64, device=device) / self.working_size
        start = torch.full((), length - shown, dtype=torch.float64, device=device) / 2
        steps = torch.arange(self.working_size, dtype=torch.float64, device=device)[:, None]
        centers = start + (steps + 0.5) * scale
        stretch = scale.clamp_min(1.0)
        reach = stretch * (2.0 if self.cubic else 1.0)
        places = torch.arange(length, dtype=torch.float64, device=device)
        low, high = (centers - reach + 0.5).floor(), (centers + reach + 0.5).floor()
        distance = ((places + 0.5 - centers) / stretch).abs()
        if self.cubic:
            near = ((1.5 * distance - 2.5) * distance) * distance + 1.0
            far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
            zero = torch.zeros_like(distance)
            values = torch.where(distance < 1, near, torch.where(distance < 2, far, zero))
        else:
            values = (1.0 - distance).clamp_min(0.0)
        values = values * ((places >= low) & (places < high))
        total = values.sum(1, keepdim=True)
        values = values / torch.where(total == 0, torch.ones_like(total), total)
        before = start + steps * scale
        inside = (before >= -1e-6 * scale) & (before + scale <= length + 1e-6 * scale)
        return values.to(torch.float32), inside


def export_torchscript(
    engine: TorchEngine, path: Path, *, with_preprocessing: bool, with_softmax: bool
) -> Path:
    """Writes a network as TorchScript and returns its path; ``torch.jit.load`` opens it.

    Labels, preprocessing and calibration are in its extra file ``finetune.json``.

    Raises:
        ModelError: Torch cannot trace this network.
        StorageError: The file cannot be written.
    """
    size = engine.metadata.preprocessing.size
    module = engine.module.cpu().eval()
    try:
        with _deprecations_silenced(), torch.no_grad():
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                module,
                torch.zeros(2, engine.metadata.preprocessing.channels, size, size),
                check_trace=False,
            )
            scripted = torch.jit.script(
                ExportModule(
                    traced,
                    engine.metadata,
                    with_preprocessing=with_preprocessing,
                    with_softmax=with_softmax,
                ).eval()
            )
            buffer = io.BytesIO()
            metadata = json.dumps(engine.metadata.to_dict(), ensure_ascii=False)
            torch.jit.save(scripted, buffer, _extra_files={METADATA_FILE: metadata})
    except RuntimeError as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{engine.metadata.model} cannot be traced: {first}") from error
    return write_atomically(path, lambda file: file.write(buffer.getvalue()))


def open_torchscript(path: Path) -> torch.jit.ScriptModule:
    """Returns the module in a TorchScript file; it is code, so open only files that you trust."""
    with _deprecations_silenced():
        return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call,no-any-return]


@contextlib.contextmanager
def _deprecations_silenced() -> Iterator[None]:
    """Silences the deprecation warnings of TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield


def torchscript_predict_proba(
    engine: TorchEngine, target: Path, *, with_preprocessing: bool, with_softmax: bool
) -> PredictProba:
    """Returns the predict function of a TorchScript file, calibrated as its engine."""
    module = open_torchscript(target)
    preprocessing = engine.metadata.preprocessing

    def predict_proba(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        if with_preprocessing:
            given = torch.from_numpy(np.ascontiguousarray(images))
        else:
            given = torch.from_numpy(
                normalized(center_of(images, preprocessing.size), preprocessing)
            )
        # Specializing for each photo's size would take far longer than the few predictions.
        with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            values = module(given).numpy()
        if with_softmax:
            return np.asarray(values, dtype=np.float64)
        return engine.metadata.task.probabilities(values)

    return predict_proba
