"""A step on a GPU must not wait for it: the host would fall behind, and the device run dry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.recipes import named
from finetune.data.dataset import DeviceDataset, PhotoDataset
from finetune.data.pixel_cache import PixelCache
from finetune.data.samples import Sample
from finetune.models.stages import all_stages
from finetune.photos.analyze import digest_of
from finetune.photos.preprocessing import Preprocessing
from finetune.tasks.single_label import SingleLabel
from finetune.training.data_source import LoaderConfig, PhotoSource
from finetune.training.optimizer import make_optimizer, parameter_groups

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("recipe", ["standard", "strong"])
def test_a_step_does_not_wait_for_the_gpu(
    make_photos: Callable[..., Path], tmp_path: Path, recipe: str, on_device: bool
) -> None:
    device = torch.device("cuda")
    root = make_photos({"a": 12, "b": 12})
    files = sorted(root.rglob("*.jpg"))
    samples = [
        Sample(
            path=str(f.relative_to(root)),
            digest=digest_of(f.read_bytes()),
            crop=None,
            target=i // 12,
        )
        for i, f in enumerate(files)
    ]
    preprocessing = Preprocessing(size=32)
    dataset = PhotoDataset(root, samples, PixelCache(tmp_path / "c", preprocessing, limit_gb=1))
    dataset.__getitems__(range(24))
    module = timm.create_model("test_resnet", num_classes=2).to(device)
    everything = all_stages(module)
    source = PhotoSource(
        module,
        preprocessing,
        DeviceDataset(dataset, device) if on_device else dataset,
        dataset,
        augment=BatchAugment(
            named(recipe), size=32, mean=preprocessing.mean, std=preprocessing.std, seed=0
        ),
        trainable=lambda epoch: everything,
        loading=LoaderConfig(batch_size=8, seed=0, workers=0, device=device),
    )
    optimizer = make_optimizer(
        parameter_groups(module.parameters(), part="head", lr=1e-3, weight_decay=0.01)
    )
    objective = SingleLabel().objective(label_smoothing=0.1)

    def epoch(number: int) -> None:
        source.begin_epoch(number)
        for micro_batch in source.batches(number, 0):
            loss = objective.loss(module(micro_batch.inputs), micro_batch.targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    epoch(0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        epoch(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
