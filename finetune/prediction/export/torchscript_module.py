"""Network with preprocessing and softmax as a scriptable module.

Annotations here are evaluated: TorchScript reads them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.photos.crops import PADDING
from finetune.photos.decode.color import LUMA, LUMA_HALF, LUMA_SCALE
from finetune.prediction.model_metadata import ModelMetadata


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
        self.temperature = metadata.temperature
        self.multi_label = metadata.task.multi_label
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
        answers: Tensor = self.network(photos)
        if self.with_softmax:
            answers = answers / self.temperature
            answers = answers.sigmoid() if self.multi_label else functional.softmax(answers, dim=-1)
        return answers

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
            whole = (values * self.luma).sum(dim=1, keepdim=True) + self.luma_half
            values = (whole / self.luma_scale).floor()
        values = (values / 255.0 - self.mean) / self.std
        if self.whiten:
            values = values - values.mean(dim=[1, 2, 3], keepdim=True)
            deviation = (values * values).mean(dim=[1, 2, 3], keepdim=True).sqrt()
            count = float(self.channels * self.size * self.size)
            values = values / deviation.clamp_min(count**-0.5)
        return values

    def shown(self, length: int, height: int, width: int) -> int:
        """Returns how many pixels of an axis of `length` the square shows."""
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
