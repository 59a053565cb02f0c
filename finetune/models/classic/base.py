"""What the classic nets share: timm's interface and registration, a pooling for small maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from timm.models import build_model_with_cfg, generate_default_cfgs
from timm.models import register_model as timm_register_model
from torch import Tensor, nn

from finetune.errors import ModelError

Entry = TypeVar("Entry", bound=Callable[..., nn.Module])
ImageSize = int | tuple[int, int] | None

OWN_RECIPES: dict[str, str] = {}
"""The augmentation recipe that a net was trained with, by its name, where it had one of its own."""


class TimmNet(nn.Module):
    """The part of timm's model interface that does not depend on the layers."""

    features: nn.Module

    def forward_features(self, images: Tensor) -> Tensor:
        """Returns feature maps ``(B, C, h, w)`` of normalized images ``(B, in_chans, H, W)``."""
        maps: Tensor = self.features(images)
        return maps

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns logits ``(B, num_classes)``, or with `pre_logits` ``(B, num_features)``."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits ``(B, num_classes)`` of normalized images ``(B, in_chans, H, W)``."""
        return self.forward_head(self.forward_features(images))

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Returns timm's description of the layers from input to output."""
        return {"stem": r"^features\.0", "blocks": r"^features\.(\d+)"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refuses: nets this small keep their activations."""
        if enable:
            raise ModelError(f"{type(self).__name__} has no gradient checkpointing.")


class ClassicNet(TimmNet):
    """A net of three parts, with the methods that timm's models have.

    Args:
        features: ``(B, in_chans, H, W) -> (B, C, h, w)``.
        neck: ``(B, C, h, w) -> (B, num_features)``, the hidden layers before the last one.
        num_features: Width of what the last layer sees.
        in_chans: Channels of the input.
        num_classes: Outputs of the last layer; 0 leaves it out.
    """

    def __init__(
        self,
        features: nn.Module,
        neck: nn.Module,
        *,
        num_features: int,
        in_chans: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = num_features
        self.features = features
        self.neck = neck
        self.head = _linear(num_features, num_classes)

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns logits ``(B, num_classes)``, or with `pre_logits` ``(B, num_features)``."""
        hidden: Tensor = self.neck(maps)
        if not pre_logits:
            hidden = self.head(hidden)
        return hidden

    def get_classifier(self) -> nn.Module:
        """Returns the last layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the last layer by a new one; these nets have no `global_pool` to choose."""
        fresh = _linear(self.num_features, num_classes)
        parameter = next(self.parameters())
        self.num_classes = num_classes
        self.head = fresh.to(device=parameter.device, dtype=parameter.dtype)


def _linear(features: int, outputs: int) -> nn.Module:
    return nn.Linear(features, outputs) if outputs > 0 else nn.Identity()


class SafeMaxPool2d(nn.MaxPool2d):
    """Max pooling that lets a map pass which is already smaller than its kernel.

    With it a net made for large images still has one pixel left at the end of a small one.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Returns the pooled maps ``(B, C, h, w)``, at least 1x1."""
        if min(maps.shape[-2:]) >= int(self.kernel_size):  # type: ignore[arg-type]
            maps = super().forward(maps)
        return maps


def sides(img_size: ImageSize, default: int) -> tuple[int, int]:
    """Returns height and width in pixels."""
    if img_size is None:
        return default, default
    if isinstance(img_size, int):
        return img_size, img_size
    height, width = img_size
    return height, width


def need_pixels(name: str, height: int, width: int, least: int) -> None:
    """Raises a ModelError if an image is too small for a net."""
    if min(height, width) < least:
        raise ModelError(
            f"{name} needs images of at least {least}x{least} pixels; --size {min(height, width)} "
            f"is too small."
        )


def settings(
    *,
    size: int,
    channels: int = 3,
    classes: int = 10,
    first_conv: str = "features.0",
    classifier: str = "head",
    **more: Any,
) -> dict[str, Any]:
    """Returns a `pretrained_cfg` for square inputs that are used as they are, without a border.

    Pixels are scaled to -1 .. 1 unless `more` says otherwise. Its ``recipe`` is no setting of
    timm's: see `configure`.
    """
    return {
        "input_size": (channels, size, size),
        "num_classes": classes,
        "mean": (0.5,) * channels,
        "std": (0.5,) * channels,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "fixed_input_size": True,
        "first_conv": first_conv,
        "classifier": classifier,
        **more,
    }


def configure(**models: dict[str, Any]) -> Any:
    """Returns timm's `default_cfgs` of a module from the settings of its models.

    A ``recipe`` among them is taken out and kept in `OWN_RECIPES`.
    """
    plain = {}
    for name, values in models.items():
        plain[name] = {key: value for key, value in values.items() if key != "recipe"}
        if "recipe" in values:
            OWN_RECIPES[name] = values["recipe"]
    return generate_default_cfgs(plain)


def build(
    factory: Callable[..., nn.Module], variant: str, pretrained: bool, **options: Any
) -> nn.Module:
    """Returns a registered model as timm builds its own, weights and settings included."""
    module: nn.Module = build_model_with_cfg(factory, variant, pretrained, **options)
    return module


def register(entry: Entry) -> Entry:
    """Registers a function ``(pretrained=False, **options) -> nn.Module`` with timm by its name."""
    timm_register_model(entry)
    return entry
