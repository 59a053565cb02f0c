from __future__ import annotations

import os
import pty
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from sklearn.metrics import log_loss
from torch import nn

from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.mixing import sample_mix
from finetune.augmentation.recipes import named
from finetune.config import MachineConfig
from finetune.data.dataset import PhotoDataset
from finetune.data.pixel_cache import PixelCache
from finetune.data.samples import Sample
from finetune.errors import DeviceError, RunError
from finetune.models.stages import all_stages
from finetune.photos.analyze import digest_of
from finetune.photos.preprocessing import Preprocessing
from finetune.tasks.losses import cross_entropy
from finetune.tasks.single_label import log_loss_and_accuracy
from finetune.training.checkpoints import TrainState, read_position
from finetune.training.data_source import LoaderConfig, PhotoSource
from finetune.training.device import choose_device, make_accelerator
from finetune.training.optimizer import make_optimizer, parameter_groups, set_lr
from finetune.training.schedule import Schedule
from finetune.training.train import discard_closed_output, interruption


def test_loss_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(0, 3, (20, 5)), rng.integers(0, 5, 20)
    smoothing = 0.1
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    q = (1 - smoothing) * np.eye(5)[targets] + smoothing / 5
    expected = -(q * log_p).sum(1).mean()
    hard = cross_entropy(torch.tensor(logits), torch.tensor(targets), label_smoothing=smoothing)
    soft = cross_entropy(
        torch.tensor(logits),
        torch.tensor(np.eye(5, dtype=np.float32)[targets]),
        label_smoothing=smoothing,
    )
    assert float(hard) == pytest.approx(expected, abs=1e-6)
    assert float(soft) == pytest.approx(expected, abs=1e-6)


def test_judging_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(0, 2, (30, 4)), rng.integers(0, 4, 30)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss, accuracy = log_loss_and_accuracy(torch.tensor(logits), torch.tensor(targets))
    assert loss == pytest.approx(log_loss(targets, p, labels=range(4)), abs=1e-9)
    assert accuracy == pytest.approx((logits.argmax(1) == targets).mean(), abs=1e-12)


def test_tensors_of_one_dimension_have_no_decay() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    groups = parameter_groups(net.parameters(), part="head", lr=0.1, weight_decay=0.05)
    decayed = {p.shape for g in groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {torch.Size([4, 3, 3, 3]), torch.Size([2, 4])}
    assert sum(len(g["params"]) for g in groups) == len(list(net.parameters()))


def test_each_part_has_its_own_rate() -> None:
    head, backbone = nn.Linear(3, 2), nn.Linear(3, 3)
    groups = parameter_groups(head.parameters(), part="head", lr=0.1, weight_decay=0)
    groups += parameter_groups(backbone.parameters(), part="backbone", lr=0.01, weight_decay=0)
    optimizer = make_optimizer(groups)
    schedule = Schedule(steps=20, warmup=0.0, head_steps=5)
    assert set_lr(optimizer, schedule, 0) == pytest.approx(0.1)
    assert {g["part"]: g["lr"] for g in optimizer.param_groups} == {"head": 0.1, "backbone": 0.0}
    set_lr(optimizer, schedule, 5)
    rates = {g["part"]: g["lr"] for g in optimizer.param_groups}
    assert rates["backbone"] == pytest.approx(rates["head"] / 10)


def _step(state: TrainState, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(4, 3, generator=generator)
    # Dropout draws from the global generator, whose state the checkpoint must carry.
    noisy = nn.functional.dropout(inputs, 0.5)
    state.module(noisy).square().sum().backward()
    state.optimizer.step()
    state.optimizer.zero_grad()


def _fresh() -> TrainState:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    groups = parameter_groups(net.parameters(), part="head", lr=0.1, weight_decay=0.1)
    return TrainState(net, make_optimizer(groups))


def test_a_checkpoint_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.safetensors"
    with torch.random.fork_rng():
        straight = _fresh()
        torch.manual_seed(5)
        for seed in range(6):
            _step(straight, seed)
        stopped = _fresh()
        torch.manual_seed(5)
        for seed in range(3):
            _step(stopped, seed)
        stopped.position.epoch, stopped.position.step = 2, 1
        stopped.running += torch.tensor([1.5, 2.0, 3.0])
        stopped.save(path)
        resumed = _fresh()
        torch.manual_seed(99)
        resumed.load(path)
        for seed in range(3, 6):
            _step(resumed, seed)
    for name, value in straight.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name]), name
    assert (resumed.position.epoch, resumed.position.step) == (2, 1)
    assert resumed.running.tolist() == [1.5, 2.0, 3.0]
    assert read_position(path).epoch == 2


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    path.write_bytes(b"half a file")
    with pytest.raises(RunError, match=r"The checkpoint .*last\.safetensors cannot be resumed"):
        _fresh().load(path)
    with pytest.raises(RunError, match="cannot be resumed"):
        read_position(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none_is_refused_in_one_line() -> None:
    with pytest.raises(DeviceError) as error:
        choose_device("cuda")
    assert str(error.value) == (
        "--device cuda: there is no CUDA device on this machine, or torch was built without CUDA. "
        "Leave --device out to use what is there."
    )


def test_a_word_that_is_no_device_is_refused() -> None:
    for word in ("gpu", "meta"):
        with pytest.raises(DeviceError, match=f"--device {word} is not one of cpu, cuda"):
            choose_device(word)


def test_half_precision_on_the_cpu_is_refused() -> None:
    with pytest.raises(DeviceError, match="--precision fp16 needs a GPU"):
        make_accelerator(MachineConfig(device="cpu", precision="fp16"))


def test_a_second_training_has_its_own_precision() -> None:
    first = make_accelerator(MachineConfig(device="cpu", precision="bf16"))
    assert first.mixed_precision == "bf16"
    second = make_accelerator(MachineConfig(device="cpu"))
    assert second.mixed_precision == "no"
    assert second.device.type == "cpu"


def test_the_first_signal_asks_and_the_second_ends() -> None:
    said: list[str] = []
    with interruption(lambda: said.append("stop")) as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        assert said == ["stop"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_output_to_a_closed_terminal_disappears(tmp_path: Path) -> None:
    terminal, program = pty.openpty()
    reader, pipe = os.pipe()
    with (tmp_path / "log").open("wb") as log:
        os.close(terminal)
        os.close(reader)
        for closed in (program, pipe):
            with pytest.raises(OSError, match=r"error|Broken pipe"):
                os.write(closed, b"epoch 1")
        discard_closed_output([program, pipe, log.fileno()])
        for file in (program, pipe, log.fileno()):
            assert os.write(file, b"epoch 2") == 7
    os.close(program)
    os.close(pipe)
    assert (tmp_path / "log").read_bytes() == b"epoch 2"


def test_sighup_interrupts_unless_nohup_ignores_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruption(lambda: None) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with interruption(lambda: None) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_recipe_that_mixes_gives_soft_targets(
    make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_photos({"a": 4, "b": 4})
    files = sorted(root.rglob("*.jpg"))
    samples = [
        Sample(
            path=str(f.relative_to(root)),
            digest=digest_of(f.read_bytes()),
            crop=None,
            target=i // 4,
        )
        for i, f in enumerate(files)
    ]
    preprocessing = Preprocessing(size=32)
    dataset = PhotoDataset(root, samples, PixelCache(tmp_path / "c", preprocessing, limit_gb=1))
    module = timm.create_model("test_resnet", num_classes=2)
    found = {}
    for probability in (0.0, 1.0):
        recipe = named("none", {"mix_probability": probability, "cutmix_share": 0.0})
        source = PhotoSource(
            module,
            preprocessing,
            dataset,
            dataset,
            augment=BatchAugment(
                recipe, size=32, mean=preprocessing.mean, std=preprocessing.std, seed=0
            ),
            trainable=lambda epoch: all_stages(module),
            loading=LoaderConfig(batch_size=8, seed=0, workers=0, device=torch.device("cpu")),
        )
        micro_batch = next(iter(source.batches(3, 0)))
        found[probability] = (micro_batch.inputs, micro_batch.targets)
    (plain, hard), (mixed, soft) = found[0.0], found[1.0]
    drawn = sample_mix(
        named("none", {"mix_probability": 1.0, "cutmix_share": 0.0}),
        batch=8,
        size=32,
        key=(0, 3, 0),
    )
    assert drawn is not None
    weight = drawn.weight
    partners = [(i - drawn.partner) % 8 for i in range(8)]
    expected = weight * plain + (1 - weight) * plain[partners]
    assert torch.allclose(mixed, expected, atol=1e-5)
    eye = torch.eye(2)
    assert torch.allclose(soft, weight * eye[hard] + (1 - weight) * eye[hard[partners]])
