"""Base class and timm registration of the classic networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.models.arguments import declare

ImageSize = int | tuple[int, int] | None

default_cfgs: dict[str, Any] = {}
"""Read by timm's `register_model`, which looks for it in the entrypoint's module."""

DEFAULT_RECIPES: dict[str, str] = {}
"""Augmentation recipe by network name, for networks that were published with one."""


def layer_titles(network: nn.Module) -> Mapping[str, str]:
    """Returns the names of a network's layers in its table, by the path of their activation."""
    titles: Mapping[str, str] = getattr(network, "layer_titles", {})
    return titles


class TimmNet(nn.Module):
    """timm's model interface on top of `features`, `neck` and a linear head.

    Subclasses set `num_features`, `num_classes`, `features` (``(B, in_chans, H, W) ->
    (B, C, h, w)``) and `neck` (``(B, C, h, w) -> (B, num_features)``, the hidden layers).
    """

    head_name = "head"
    """Path of the last layer, as in ``state_dict``."""

    num_features: int
    num_classes: int
    features: nn.Module
    neck: Callable[[Tensor], Tensor]

    def forward_features(self, images: Tensor) -> Tensor:
        """Returns feature maps ``(B, C, h, w)`` of normalized images ``(B, in_chans, H, W)``."""
        maps: Tensor = self.features(images)
        return maps

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns logits ``(B, num_classes)``, or with `pre_logits` ``(B, num_features)``."""
        hidden = self.neck(maps)
        if not pre_logits:
            hidden = self.get_classifier()(hidden)
        return hidden

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits ``(B, num_classes)`` of normalized images ``(B, in_chans, H, W)``."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """Returns the last layer."""
        return self.get_submodule(self.head_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the last layer by a new one; `global_pool` is ignored."""
        parameter = next(self.parameters())
        self.num_classes = num_classes
        parent, _, name = self.head_name.rpartition(".")
        head = linear(self.num_features, num_classes)
        self.get_submodule(parent).register_module(
            name, head.to(device=parameter.device, dtype=parameter.dtype)
        )

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Returns timm's patterns of the layers from input to output."""
        return {"stem": r"^features\.0", "blocks": r"^features\.(\d+)"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Raises ModelError when enabled: networks this small keep their activations."""
        if enable:
            raise ModelError(f"{type(self).__name__} has no gradient checkpointing.")


ACTIVATIONS = (nn.ReLU, nn.Tanh)


class ClassicNet(TimmNet):
    """Network of features, neck and a new linear head of `num_classes` outputs (0: none).

    Args:
        features: As in `TimmNet`.
        neck: As in `TimmNet`.
        num_features: Width of the last hidden layer.
        in_chans: Channels of the input.
        num_classes: Number of labels.
        titles: Names in the network's table of the layers with an activation, and of the head;
            None: ``conv1 conv2 ... fc3 ... head``.
    """

    def __init__(
        self,
        features: nn.Module,
        neck: nn.Module,
        *,
        num_features: int,
        in_chans: int,
        num_classes: int,
        titles: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = num_features
        self.features = features
        self.neck = neck
        self.head = linear(num_features, num_classes)
        paths = [path for path, layer in self.named_modules() if isinstance(layer, ACTIVATIONS)]
        kinds = ["conv" if path.startswith("features.") else "fc" for path in paths]
        usual = [f"{kind}{number}" for number, kind in enumerate(kinds, 1)]
        self.layer_titles = dict(zip([*paths, "head"], titles or [*usual, "head"], strict=True))


def linear(features: int, outputs: int) -> nn.Module:
    """Returns a linear layer, or the identity where there are no outputs."""
    return nn.Linear(features, outputs) if outputs > 0 else nn.Identity()


def input_sides(
    name: str, img_size: ImageSize, default: int, *, minimum: int = 1
) -> tuple[int, int]:
    """Returns height and width of a network's input in pixels.

    Raises:
        ModelError: The image is smaller than `minimum`.
    """
    size = default if img_size is None else img_size
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < minimum:
        raise ModelError(
            f"{name} needs images of at least {minimum}x{minimum} pixels; "
            f"--size {min(height, width)} is too small."
        )
    return height, width


def pretrained_cfg(*, size: int, channels: int = 3, **more: Any) -> dict[str, Any]:
    """Returns a timm `pretrained_cfg` for square inputs without a margin.

    Pixels are scaled to -1 .. 1 unless `more` has other values.
    """
    return {
        "input_size": (channels, size, size),
        "num_classes": 10,
        "mean": (0.5,) * channels,
        "std": (0.5,) * channels,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "fixed_input_size": True,
        "first_conv": "features.0",
        "classifier": "head",
        **more,
    }


def register(
    name: str,
    factory: Callable[..., nn.Module],
    cfg: dict[str, Any],
    *,
    recipe: str | None = None,
    **fixed: Any,
) -> None:
    """Registers a network with timm.

    Args:
        name: The model name.
        factory: The class, or a function that returns the network.
        cfg: Its `pretrained_cfg`.
        recipe: Name of the augmentation recipe that it was published with.
        **fixed: Arguments of `factory` that define this variant.
    """

    def entrypoint(pretrained: bool = False, **options: Any) -> nn.Module:
        module: nn.Module = build_model_with_cfg(factory, name, pretrained, **fixed, **options)
        return module

    entrypoint.__name__ = name
    declare(name, factory, fixed)
    default_cfgs.update(generate_default_cfgs({name: cfg}))
    register_model(entrypoint)
    if recipe is not None:
        DEFAULT_RECIPES[name] = recipe
