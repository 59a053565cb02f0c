"""Grad-CAM explanations of predictions, for CNNs and transformers.

Selvaraju et al. (2017), "Grad-CAM", eq. 1 and 2: with A_k the channels of the last feature map and
y_c the logit of a label, ``heat = relu(sum_k alpha_k A_k)`` where ``alpha_k`` is the mean of
``dy_c/dA_k`` over the map.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn

from finetune.augmentation.center_crop import preprocess
from finetune.errors import ConfigError, ModelError
from finetune.files import write_atomically
from finetune.fonts import draw_text, fitted
from finetune.formatting import visible
from finetune.photos.decode.decoder import MAX_PIXELS
from finetune.photos.preprocessing import Preprocessing
from finetune.prediction.inputs import working_image
from finetune.prediction.torch_engine import TorchEngine

if TYPE_CHECKING:
    from finetune.prediction.predictor import Predictor

OVERLAY_SIZE = 448
"""Side of an overlay in pixels."""

_DIM = 0.45
_LUMA = np.array([0.299, 0.587, 0.114])
_LINE = (255, 176, 46)


def explainable(predictor: Predictor) -> TorchEngine:
    """Returns the first torch engine of a predictor, which has gradients.

    Raises:
        ConfigError: No engine has gradients, as with exported files.
    """
    for engine in predictor.engines:
        if isinstance(engine, TorchEngine):
            return engine
    raise ConfigError(
        "An explanation needs gradients, which an exported file does not have. Name the run itself "
        "with --run."
    )


def heat_map(engine: TorchEngine, squares: NDArray[np.uint8], label: str) -> NDArray[np.float32]:
    """Returns Grad-CAM heat maps of a label, ``(B, h, w)`` in [0, 1].

    Args:
        engine: The network.
        squares: Working images ``(B, S, S, 3) uint8``.
        label: The label to explain.

    Raises:
        ConfigError: The network does not have the label.
        ModelError: It has no feature map.
    """
    metadata = engine.metadata
    if label not in metadata.labels:
        raise ConfigError(f"The run {metadata.name} does not have the label '{label}'.")
    images = torch.from_numpy(np.ascontiguousarray(squares)).permute(0, 3, 1, 2)
    target = metadata.labels.index(label)
    heat: NDArray[np.float32] = (
        grad_cam(engine.module, metadata.preprocessing, images, target).cpu().numpy()
    )
    return heat


def grad_cam(
    module: nn.Module, preprocessing: Preprocessing, images: Tensor, target: int
) -> Tensor:
    """Returns Grad-CAM maps ``(B, h, w) float32``, each scaled to a largest value of 1.

    Args:
        module: A timm network in eval mode.
        preprocessing: Preprocessing of its inputs.
        images: Working images ``(B, 3, S, S) uint8``.
        target: Index of the logit to explain.

    Raises:
        ModelError: The network has no feature map.
    """
    device = next(module.parameters()).device
    pixels = preprocess(images.to(device), preprocessing)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    with torch.enable_grad():
        logits, features = _logits_and_features(module, pixels)
        # The photos of a batch do not mix in eval mode: one sum has each one's own gradient.
        (gradient,) = torch.autograd.grad(logits[:, target].sum(), features)
    maps, slopes = (_as_maps(module, part.detach().float()) for part in (features, gradient))
    weights = slopes.mean((2, 3), keepdim=True)  # alpha, (B, C, 1, 1)
    heat = (weights * maps).sum(1).relu()
    peak = heat.amax((1, 2), keepdim=True)
    return heat / torch.where(peak > 0, peak, torch.ones_like(peak))


def overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns an image ``(S, S, 3) uint8`` with its heat ``(h, w)`` shown on it.

    Hot regions keep their colors, the rest is gray and dim, and a line surrounds the regions above
    half of the highest heat, so that it is visible on photos of any colors.
    """
    side = image.shape[0]
    resized = Image.fromarray(np.asarray(heat, dtype=np.float32)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    share = np.clip(np.asarray(resized), 0, 1)
    gray = _DIM * image.astype(np.float64) @ _LUMA
    kept = np.sqrt(share)[..., None]
    mixed = image * kept + gray[..., None] * (1 - kept)
    result: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    result[_outline(share > 0.5, width=max(1, side // 200))] = _LINE
    return result


def explain_photo(
    engine: TorchEngine,
    photo: Any,
    label: str,
    *,
    size: int = OVERLAY_SIZE,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """Returns a photo as the network sees it, ``(size, size, 3) uint8``, with a heat map.

    Raises:
        DecodeError: The photo cannot be opened.
        ConfigError: The network does not have the label.
    """
    preprocessing = engine.metadata.preprocessing
    heat = heat_map(
        engine, working_image(photo, preprocessing, max_pixels=max_pixels)[None], label
    )[0]
    share = preprocessing.size / preprocessing.working_size
    fine = Preprocessing(
        size=size, crop_pct=share, fit=preprocessing.fit, interpolation=preprocessing.interpolation
    )
    image = working_image(photo, fine, max_pixels=max_pixels)
    margin = (image.shape[0] - size) // 2
    return overlay(image[margin : margin + size, margin : margin + size], heat)


def captioned(image: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """Returns an image ``(H, W, 3) uint8`` with a line of text below it."""
    height, width = image.shape[:2]
    size = 18
    page = Image.new("RGB", (width, height + 2 * size), (24, 26, 28))
    page.paste(Image.fromarray(image), (0, 0))
    place = (width / 2, height + size)
    shown = fitted(visible(text), size, width - 16)
    draw_text(ImageDraw.Draw(page), place, shown, size=size, fill="white", anchor="mm")
    return np.asarray(page)


def write_png(path: Path, image: NDArray[np.uint8]) -> Path:
    """Writes an image ``(H, W, 3) uint8`` as PNG and returns its path; raises StorageError."""
    picture = Image.fromarray(image)
    return write_atomically(path, lambda file: picture.save(file, format="PNG"))


def _logits_and_features(module: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns logits and the last spatial features they depend on."""
    watched = _token_layer(module)
    if watched is not None:
        with _output_of(watched) as kept:
            logits = module(pixels)
        return logits, kept[0]
    if not hasattr(module, "forward_features"):
        raise ModelError(f"{type(module).__name__} has no feature map to explain.")
    with torch.no_grad():
        features: Tensor = module.forward_features(pixels)  # type: ignore[operator]
    # Only what follows the map needs a gradient, which for most networks is the head alone.
    features = features.detach().requires_grad_()
    logits = module.forward_head(features)  # type: ignore[operator]
    return logits, features


def _token_layer(module: nn.Module) -> nn.Module | None:
    """Returns the layer whose output to use in a vision transformer, else None.

    After the last block only the class token may matter, and the other tokens would get no
    gradient; the input of the last attention still reaches all of them.
    """
    blocks = getattr(module, "blocks", None)
    prefix = getattr(module, "num_prefix_tokens", None)
    if prefix is None or not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
        return None
    layer = getattr(blocks[-1], "norm1", None)
    return layer if isinstance(layer, nn.Module) else None


@contextmanager
def _output_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, __, output: kept.append(output))
    try:
        yield kept
    finally:
        handle.remove()


def _as_maps(module: nn.Module, features: Tensor) -> Tensor:
    """Returns features of any layout as maps ``(B, C, h, w)``."""
    if features.ndim == 4:
        if features.shape[2] == features.shape[3]:
            return features
        if features.shape[1] == features.shape[2]:
            return features.permute(0, 3, 1, 2)
    if features.ndim == 3:
        tokens = features[:, int(getattr(module, "num_prefix_tokens", 0) or 0) :]
        side = math.isqrt(tokens.shape[1])
        if side * side == tokens.shape[1]:
            return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
    raise ModelError(
        f"{type(module).__name__} has features of shape {tuple(features.shape)}, which are no map "
        "of the photo."
    )


def _outline(inside: NDArray[np.bool_], *, width: int) -> NDArray[np.bool_]:
    """Returns the inner border of a region, `width` pixels wide."""
    core = inside
    for _ in range(width):
        padded = np.pad(core, 1, constant_values=True)
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core
