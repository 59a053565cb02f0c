"""Steps on a GPU, as far as they can be seen without one.

Tensors on the device are stand-ins that know shape, type and device, but hold no values. What meets
a tensor of another device, asks for a value (and so would wait for the device), or crosses over
from memory that is not pinned, ends in an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode

from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.recipes import named
from finetune.data.dataset import DeviceDataset, PhotoDataset
from finetune.data.loaders import load_batches
from finetune.data.pixel_cache import PixelCache
from finetune.data.samples import Sample
from finetune.models.stages import all_stages
from finetune.photos.analyze import digest_of
from finetune.photos.preprocessing import Preprocessing
from finetune.tasks.single_label import SingleLabel
from finetune.training import data_source as material_module
from finetune.training.averaging import WeightAverage
from finetune.training.data_source import LoaderConfig, PhotoSource
from finetune.training.optimizer import make_optimizer, parameter_groups

CUDA = torch.device("cuda", 0)
SPEC = Preprocessing(size=32)
PHOTOS = 24


class PretendedGpu(TorchFunctionMode):
    """Carries out what names the device with stand-ins, and lets in pinned memory alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stand_ins = FakeTensorMode()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.pin_memory:
            return self.stand_ins.from_tensor(args[0])
        given = [*args, *kwargs.values()]
        there = any(isinstance(v, torch.device) and v.type == CUDA.type for v in given)
        if not there and not any(isinstance(v, FakeTensor) for v in given):
            return func(*args, **kwargs)
        if there and func is Tensor.to:
            assert isinstance(args[0], FakeTensor), "copied from memory that is not pinned"
        with self.stand_ins:
            return func(*args, **kwargs)


@pytest.fixture
def gpu() -> Iterator[PretendedGpu]:
    with PretendedGpu() as pretended:
        yield pretended


@pytest.fixture
def photos(make_photos: Callable[..., Path], tmp_path: Path) -> PhotoDataset:
    root = make_photos({"a": PHOTOS // 2, "b": PHOTOS // 2})
    samples = [
        Sample(
            path=str(f.relative_to(root)),
            digest=digest_of(f.read_bytes()),
            crop=None,
            target=2 * i // PHOTOS,
        )
        for i, f in enumerate(sorted(root.rglob("*.jpg")))
    ]
    dataset = PhotoDataset(root, samples, PixelCache(tmp_path / "c", SPEC, limit_gb=1))
    dataset.__getitems__(range(PHOTOS))
    return dataset


def resident(dataset: PhotoDataset) -> DeviceDataset:
    """The dataset as it lies on the device, without the sending of its squares."""
    there = DeviceDataset.__new__(DeviceDataset)
    there.root, there.samples, there.cache = dataset.root, dataset.samples, dataset.cache
    there.targets, there.device = dataset.targets, CUDA
    shape = (len(dataset), *dataset.cache.records.shape)
    there.images = torch.empty(shape, dtype=torch.uint8, device=CUDA)
    return there


def network(gpu: PretendedGpu, **options: Any) -> nn.Module:
    with gpu.stand_ins, CUDA:
        module: nn.Module = timm.create_model("test_resnet", num_classes=2, **options)
    return module.train()


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("on_device", [True, False], ids=["resident", "pinned"])
@pytest.mark.parametrize("recipe", ["none", "standard", "strong", "mobius", "mixed", "whitened"])
def test_a_step_stays_on_the_device_and_asks_it_for_nothing(
    gpu: PretendedGpu,
    photos: PhotoDataset,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    on_device: bool,
    channels: int,
) -> None:
    # torch's own loader pins where it finds a GPU; here it finds none.
    monkeypatch.setattr(
        material_module,
        "load_batches",
        lambda dataset, batches, **_: (
            batch if on_device else batch.pin_memory() for batch in load_batches(dataset, batches)
        ),
    )
    chosen = {
        "mixed": named("standard", {"mix_probability": 1.0, "cutmix_share": 0.5}),
        "whitened": named("standard", {"whiten": True}),
    }
    mean, std = (0.5,) * channels, (0.25,) * channels
    module = network(gpu, in_chans=channels)
    everything = all_stages(module)
    source = PhotoSource(
        module,
        SPEC,
        resident(photos) if on_device else photos,
        photos,
        augment=BatchAugment(
            chosen.get(recipe) or named(recipe), size=32, mean=mean, std=std, seed=0
        ),
        trainable=lambda epoch: everything,
        loading=LoaderConfig(batch_size=8, seed=0, workers=0, device=CUDA),
    )
    groups = parameter_groups(module.parameters(), part="head", lr=1e-3, weight_decay=0.01)
    optimizer = make_optimizer(groups)
    average = WeightAverage(module, 0.9)
    objective = SingleLabel().objective(label_smoothing=0.1)
    sums = torch.zeros(2, device=CUDA)
    source.begin_epoch(0)
    steps = 0
    for micro_batch in source.batches(0, 0):
        logits = module(micro_batch.inputs)
        loss = objective.loss(logits, micro_batch.targets)
        sums += torch.stack([loss.detach(), objective.correct(logits, micro_batch.targets)])
        for parameter in module.parameters():  # autograd itself wants the real device
            parameter.grad = torch.zeros_like(parameter)
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(module, steps)
        assert micro_batch.inputs.shape == (8, channels, 32, 32)
        assert {micro_batch.inputs.device, micro_batch.targets.device, loss.device} == {CUDA}
        steps += 1
    assert steps == PHOTOS // 8


def test_the_pretended_gpu_catches_what_a_real_one_would_wait_for_or_refuse(
    gpu: PretendedGpu,
) -> None:
    there = torch.ones(3, device=CUDA)
    with pytest.raises(DataDependentOutputException):
        there.sum().item()
    with pytest.raises(RuntimeError, match=r"two (different )?devices"):
        there + gpu.stand_ins.from_tensor(torch.ones(3))
    with pytest.raises(AssertionError, match="not pinned"):
        torch.ones(3).to(CUDA, non_blocking=True)
    assert torch.ones(3).pin_memory().to(CUDA, non_blocking=True).device == CUDA
