from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finetune.config import MachineConfig
from finetune.config_io import resolve
from finetune.errors import DeviceError
from finetune.photos.preprocessing import Preprocessing
from finetune.tasks.single_label import SingleLabel
from finetune.training import batch_size as sizes
from finetune.training.checkpoints import TrainState
from finetune.training.data_source import LoaderConfig, MicroBatch, split_epoch
from finetune.training.device import make_accelerator
from finetune.training.events import Event, Note, ignore
from finetune.training.loop import LoopConfig
from finetune.training.optimizer import make_optimizer, parameter_groups
from finetune.training.schedule import Schedule
from finetune.training.validation import Outputs

OUT_OF_MEMORY = (
    "The device's memory is too small for one photo with this network. Use a smaller --size or a "
    "smaller --model, --mode head, or --device cpu."
)


def short_of_memory(most: int) -> Callable[[int], None]:
    def attempt(size: int) -> None:
        if size > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return attempt


@pytest.mark.parametrize(("most", "found"), [(1000, 256), (100, 64), (32, 32), (31, 16), (1, 1)])
def test_the_largest_batch_that_fits_is_found_by_trying(most: int, found: int) -> None:
    assert sizes.find_batch_size(short_of_memory(most), most=256) == found


def test_where_not_one_photo_fits_it_is_said() -> None:
    with pytest.raises(DeviceError) as error:
        sizes.find_batch_size(short_of_memory(0), most=64)
    assert str(error.value) == OUT_OF_MEMORY


def test_another_failure_is_not_taken_for_a_lack_of_memory() -> None:
    def attempt(size: int) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot"):
        sizes.find_batch_size(attempt, most=64)
    assert sizes.is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: ...)"))


def test_a_larger_batch_must_leave_steps() -> None:
    wanted = {100: 32, 1279: 32, 1280: 64, 2560: 128, 5120: 256, 10**6: 256}
    assert {photos: sizes.max_batch_size(photos) for photos in wanted} == wanted


def test_the_learning_rate_goes_with_the_batch_by_the_optimizers_rule() -> None:
    assert sizes.lr_factor(128, "sgd") == 4
    assert sizes.lr_factor(8, "lookahead_sgdw") == 0.25
    assert sizes.lr_factor(128, "adamw") == 2
    assert sizes.lr_factor(64, "lamb") == pytest.approx(math.sqrt(2))
    assert sizes.lr_factor(32, "muon") == 1


@pytest.mark.parametrize(
    ("batch", "accumulate", "portions"), [(32, 1, (16, 2)), (33, 1, (11, 3)), (6, 4, (3, 8))]
)
def test_smaller_portions_make_the_same_step(
    batch: int, accumulate: int, portions: tuple[int, int]
) -> None:
    loading = LoaderConfig(
        batch_size=batch, seed=0, workers=0, device=torch.device("cpu"), accumulate=accumulate
    )
    found = sizes.smaller(loading)
    assert (found.batch_size, found.accumulate) == portions
    assert found.step_size == loading.step_size
    with pytest.raises(DeviceError, match="too small for one photo"):
        sizes.smaller(replace(loading, batch_size=1, accumulate=step(loading)))


def step(loading: LoaderConfig) -> int:
    return loading.step_size


class Numbers:
    """Stands in for photos: 48 rows of 4 numbers."""

    def __init__(self, batch_size: int, accumulate: int = 1) -> None:
        rng = np.random.default_rng(5)
        self.inputs = torch.from_numpy(rng.normal(size=(48, 4)).astype(np.float32))
        self.targets = torch.from_numpy(rng.integers(0, 3, 48))
        self.module: nn.Module | None = None
        self.loading = LoaderConfig(
            batch_size=batch_size,
            seed=1,
            workers=0,
            device=torch.device("cpu"),
            accumulate=accumulate,
        )

    def begin_epoch(self, epoch: int) -> None:
        pass

    def batches(self, epoch: int, first_step: int) -> Iterator[MicroBatch]:
        for cut in split_epoch(48, self.loading, epoch, first_step):
            rows = torch.from_numpy(cut.indices)
            yield MicroBatch(
                inputs=self.inputs[rows],
                targets=self.targets[rows],
                share=cut.share,
                completes=cut.completes,
            )

    def validate(self) -> Outputs:
        assert self.module is not None
        with torch.no_grad():
            return Outputs(self.module(self.inputs).numpy(), self.targets.numpy())


class Small(nn.Module):
    """A linear layer with memory for so many rows at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.linear = nn.Linear(4, 3)
        nn.init.constant_(self.linear.weight, 0.1)
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled() and len(inputs) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        logits: Tensor = self.linear(inputs)
        return logits


def train(
    folder: Path, most: int, source: Numbers, callback: Callable[[Event], None] = ignore
) -> dict[str, Tensor]:
    module = Small(most)
    source.module = module
    groups = parameter_groups(module.parameters(), part="head", lr=0.05, weight_decay=0.0)
    state = TrainState(module, make_optimizer(groups))
    loop_config = LoopConfig(
        epochs=3,
        steps_per_epoch=3,
        schedule=Schedule(steps=9, warmup=0.1),
        objective=SingleLabel().objective(),
        last=folder / "last.safetensors",
        best=folder / "best.safetensors",
    )
    accelerator = make_accelerator(MachineConfig(device="cpu"))
    done = sizes.fit_in_memory(
        state,
        source,  # type: ignore[arg-type]
        loop_config,
        accelerator,
        callback=callback,
        stop=lambda: False,
    )
    assert done
    assert state.position.epoch == 3
    return module.state_dict()


def test_a_training_that_runs_out_of_memory_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    notes: list[str] = []
    whole = train(tmp_path, 100, Numbers(16))
    tight = Numbers(16)
    found = train(
        tmp_path, 5, tight, lambda e: notes.append(e.text) if isinstance(e, Note) else None
    )
    assert notes == [
        "Out of memory: 8 photos at a time from here on, 2 times a step; a step still has 16.",
        "Out of memory: 4 photos at a time from here on, 4 times a step; a step still has 16.",
    ]
    for name, value in whole.items():
        assert torch.allclose(found[name], value, atol=1e-6), name
    # And to the last bit those of who had asked for small portions from the start.
    asked = train(tmp_path, 100, Numbers(4, accumulate=4))
    assert all(torch.equal(found[name], asked[name]) for name in asked)


def test_a_training_whose_photos_never_fit_says_so(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as error:
        train(tmp_path, 0, Numbers(4))
    assert str(error.value) == OUT_OF_MEMORY


class Tight(nn.Module):
    """A network that has memory for so many photos."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        logits: Tensor = self.fc(self.norm(pixels).mean((2, 3)))
        return logits


@pytest.mark.parametrize("mode", ["full", "head"])
def test_trying_leaves_the_network_as_it_was(mode: str) -> None:
    module = Tight(most=70)
    module.norm.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    machine = resolve({}, {"device": "cpu"}).machine
    frozen = mode == "head"
    device = torch.device("cpu")
    assert (
        sizes.try_batch_sizes(
            module, Preprocessing(size=32), device, machine, frozen=frozen, most=256
        )
        == 64
    )
    after = module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in module.parameters())
    wanted = {name: p.requires_grad for name, p in module.named_parameters()}
    assert [name for name, needed in wanted.items() if not needed] == ["norm.weight"]
