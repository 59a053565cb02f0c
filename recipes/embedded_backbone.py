"""Trains the weights of `finetune_small` from random numbers, by imitating a teacher's features.

The student sees the same strongly augmented crops as the teacher ("function matching", Beyer et
al. 2022, arXiv:2106.05237) and learns

- the teacher's maps at 1/4, 1/8 and 1/16 of the input, place by place. Each stage of the student
  first starts from the teacher's map below it, and step by step more often from the student's own:
  so all stages learn from the first step on, and the chain closes by itself;
- the last map before pooling, and its mean over the places (the features);
- the teacher's probabilities, as its own frozen classifier reads them from the student's features
  (Chen et al. 2022, arXiv:2203.14001).

The learning rate rises, stays, and falls linearly to zero only in the cool-down, which starts from
any checkpoint. So training adds up over as many runs as there is time for, on a CPU or a GPU:

    alias recipe="python recipes/embedded_backbone.py --photos DIR --teacher FILE --work DIR"
    recipe --minutes 25
    recipe --minutes 25 --resume
    recipe --resume --cooldown 2000 --output finetune/models/embedded/finetune_small.safetensors
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import queue
import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from finetune.augmentation.batch_augment import BatchAugment
from finetune.augmentation.recipes import named
from finetune.files import read_json, write_atomically, write_json
from finetune.models import finetune_small
from finetune.photos.crops import Crop, load_square
from finetune.photos.decode.decoder import decode_photo

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WORKING_SIDE = 224
HELD_OUT_EVERY = 19
QUEUED_BATCHES = 4
BLOCK = 160
SECONDS_BETWEEN_CHECKPOINTS = 30
OUTPUT_SCALE = ("bn2.weight", "bn2.bias")
"""The last map is relu(bn2(.)), so a positive factor of these two is a factor of the features."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every number of the recipe."""

    seed: int = 0
    batch: int = 48
    size: int = 112
    muon_lr: float = 0.008
    adam_lr: float = 2.5e-3
    weight_decay: float = 0.05
    warmup_steps: int = 150
    own_steps: int = 1800
    """After so many steps every stage starts from the student's own map below it."""
    hint_weight: float = 0.3
    """Weight of the three lower maps once the chain is closed; 1 before."""
    feature_weight: float = 1.0
    probability_weight: float = 0.5
    mix_probability: float = 0.2

    def augmentation(self) -> BatchAugment:
        """Returns what both networks look at: hard crops near the photos' own scale."""
        recipe = named(
            "strong",
            {
                "crop_area_min": 0.08,
                "crop_area_max": 0.8,
                "brightness": 0.3,
                "contrast": 0.3,
                "hue": 0.02,
                "erase_probability": 0.0,
                "mix_probability": 0.0,
            },
        )
        return BatchAugment(recipe, size=self.size, mean=MEAN, std=STD, seed=self.seed)


# --- photos -------------------------------------------------------------------------------------


def load_photos(folder: Path) -> tuple[Tensor, Tensor]:
    """Returns `(N, 3, 224, 224)` uint8 squares and `(N,)` which of them are held out.

    A photo longer than 1.15 times its width gives two squares, one at either end.
    """
    squares, held_out = [], []
    for number, path in enumerate(sorted(folder.iterdir())):
        height, width = decode_photo(path).shape[:2]
        short, long = sorted((height, width))
        ends = [0.5] if long < 1.15 * short else [short / 2 / long, 1 - short / 2 / long]
        for end in ends:
            crop = Crop(**{"center_x" if width > height else "center_y": end})
            squares.append(load_square(path, size=WORKING_SIDE, crop=crop))
            held_out.append(number % HELD_OUT_EVERY == 0)
    pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)  # channels_last
    return pixels, torch.tensor(held_out)


# --- teacher ------------------------------------------------------------------------------------


class Teacher(nn.Module):
    """The teacher's maps at 1/4, 1/8, 1/16 and its last one; in ONNX Runtime on a CPU if present.

    ONNX Runtime takes half of torch's time there, to the same last digits.
    """

    def __init__(self, weights: Path, *, folder: Path, on_cpu: bool) -> None:
        super().__init__()
        self.net = timm.create_model("mobilenetv2_100")
        self.net.load_state_dict(load_file(weights))
        self.net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.session: Any = None
        if on_cpu:
            self.session = _onnx_session(self, folder / "teacher.onnx")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns maps of 24, 32, 96 and 1,280 channels at 1/4, 1/8, 1/16 and 1/32."""
        if self.session is not None:
            found = self.session.run(None, {"images": images.contiguous().numpy()})
            return tuple(torch.from_numpy(item) for item in found)
        net, maps = self.net, []
        x = net.bn1(net.conv_stem(images))
        for number, stage in enumerate(net.blocks):
            x = stage(x)
            if number in (1, 2, 4):
                maps.append(x)
        return (*maps, net.bn2(net.conv_head(x)))


def _onnx_session(teacher: Teacher, path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        return None
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        axes = {"images": {0: "batch", 2: "height", 3: "width"}}
        example = (torch.zeros(2, 3, 128, 128),)
        with warnings.catch_warnings():
            # The newer exporter wants one more package, for the same graph.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                teacher, example, path, dynamo=False, input_names=["images"], dynamic_axes=axes
            )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Scales:
    """Means and deviations that bring the teacher's maps to a common scale, channel by channel."""

    means: list[Tensor]
    deviations: list[Tensor]

    def apply(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        """Returns the maps on the common scale."""
        return [
            (x - mean.to(x.device)[:, None, None]) / deviation.to(x.device)[:, None, None]
            for x, mean, deviation in zip(maps, self.means, self.deviations, strict=True)
        ]


def measure_scales(batches: list[tuple[Tensor, ...]]) -> Scales:
    """Returns the scales of a few batches of maps.

    The last map stays non-negative, as the student's is, and no rare channel outweighs the others.
    """
    means, deviations = [], []
    for maps in zip(*batches, strict=True):
        flat = torch.cat([x.transpose(0, 1).flatten(1) for x in maps], 1)
        means.append(flat.mean(1))
        deviations.append(flat.std(1))
    means[-1] = torch.zeros_like(means[-1])
    deviations[-1] = deviations[-1].clamp(min=0.3 * deviations[-1].mean())
    return Scales(means, deviations)


# --- views --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Views:
    """The batches: a pure function of the step, so that a resumed run sees what it would have."""

    photos: Tensor
    places: Tensor
    settings: Settings

    def batch(self, step: int) -> Tensor:
        """Returns `(B, 3, size, size)` float32: a step's crops, some steps mixed in pairs."""
        settings, count = self.settings, len(self.places)
        drawn = []
        for number in range(step * settings.batch, (step + 1) * settings.batch):
            drawn.append(divmod(number, count))
        epoch = drawn[0][0]
        order = np.random.default_rng((settings.seed, epoch)).permutation(count)
        indices = self.places[torch.from_numpy(order[[place for _, place in drawn]])]
        device = self.photos.device
        images: Tensor = settings.augmentation()(self.photos[indices.to(device)], indices, epoch)
        rng = np.random.default_rng((settings.seed, step, 1))
        if rng.random() < settings.mix_probability:
            weight = torch.from_numpy(rng.random((settings.batch, 1, 1, 1), np.float32)).to(device)
            images = weight * images + (1 - weight) * images.flip(0)
        return images

    def own_maps(self, step: int) -> Tensor:
        """Returns `(B, 1, 1, 1)` bool: whose stages start from the student's own maps."""
        settings = self.settings
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        chance = torch.rand(settings.batch, 1, 1, 1, generator=generator)
        return (chance < step / settings.own_steps).to(self.photos.device)


def taught(views: Views, teacher: Teacher, first: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yields each step's images and the teacher's maps of them, from step `first` on."""
    for step in itertools.count(first):
        with torch.no_grad():
            images = views.batch(step)
            maps = list(teacher(images))
        yield images, maps


def taught_beside(
    views: Views, teacher: Teacher, first: int
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """As `taught`, from a process of its own: one core looks, the other one learns."""
    fork = multiprocessing.get_context("fork")
    batches = fork.Queue(QUEUED_BATCHES)

    def work() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        torch.set_num_threads(1)
        for images, maps in taught(views, teacher, first):
            batches.put([x.to(torch.float16).numpy() for x in (images, *maps)])

    worker = fork.Process(target=work, daemon=True)
    worker.start()
    while True:
        try:
            images, *maps = (torch.from_numpy(x).float() for x in batches.get(timeout=5))
        except queue.Empty:
            if not worker.is_alive():
                raise RuntimeError("The process that prepares batches has ended.") from None
            continue
        yield images, maps


# --- student ------------------------------------------------------------------------------------


def student_maps(net: Any, images: Tensor, given: list[Tensor], own: Tensor | None) -> list[Tensor]:
    """Returns the student's four maps, on the common scale.

    Args:
        net: `finetune_small`.
        images: `(B, 3, S, S)` normalized.
        given: The teacher's maps on the common scale.
        own: `(B, 1, 1, 1)` bool, whose stages start from the student's own map below; None: all.
    """
    maps = []
    x = net.bn1(net.conv_stem(images))
    for stage, block in enumerate(net.blocks):
        x = block(x)
        if stage < 3:
            maps.append(x)
            if own is not None:
                x = torch.where(own, x, given[stage].to(x.dtype))
    return [*maps, net.bn2(net.conv_head(x))]


def losses(
    found: list[Tensor], wanted: list[Tensor], classifier: nn.Module, deviation: Tensor
) -> dict[str, Tensor]:
    """Returns the parts of the loss: squared errors of the maps and features, and KL divergence."""
    parts = {
        f"map{4 * 2**number}": (x.float() - y).square().mean()
        for number, (x, y) in enumerate(zip(found, wanted, strict=True))
    }
    features, target = found[-1].float().mean((2, 3)), wanted[-1].mean((2, 3))
    parts["features"] = (features - target).square().mean()
    parts["probabilities"] = functional.kl_div(
        classifier(features * deviation).log_softmax(1),
        classifier(target * deviation).softmax(1),
        reduction="batchmean",
    )
    return parts


def total(parts: dict[str, Tensor], step: int, settings: Settings) -> Tensor:
    """Returns the loss of a step."""
    closed = min(1.0, step / settings.own_steps)
    hints = 1 + closed * (settings.hint_weight - 1)
    return (
        hints * (parts["map4"] + parts["map8"] + parts["map16"])
        + parts["map32"]
        + settings.feature_weight * parts["features"]
        + settings.probability_weight * parts["probabilities"]
    )


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal (Jordan et al. 2024), scaled as AdamW's steps.

    The Newton-Schulz iteration runs on the small Gram matrix of each weight.
    """

    def __init__(self, parameters: list[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Updates every parameter once."""
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(momentum, group["momentum"]).flatten(1))
                scale = 0.2 * max(update.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update.view(weight.shape), alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """Returns the matrix with singular values near 1: five quintic Newton-Schulz steps.

    A matrix of more than `BLOCK` rows is cut into blocks of rows, each made orthogonal by itself,
    which halves the time.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    whole = matrix.T if tall else matrix
    rows = len(whole)
    blocks = -(-rows // BLOCK)
    while rows % blocks:
        blocks += 1
    x = whole.reshape(blocks, rows // blocks, -1)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = x @ x.mT
    eye = torch.eye(gram.shape[1], device=x.device)
    product = eye.expand_as(gram)
    for _ in range(5):
        factor = 3.4445 * eye - 4.7750 * gram + 2.0315 * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    whole = (product @ x).view(rows, -1)
    return whole.T if tall else whole


def make_optimizers(net: nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """Returns Muon for the convolutions, AdamW for the stem, the norms and the biases."""
    inner = [p for p in net.parameters() if p.ndim == 4 and p.shape[1] > 3]
    chosen = {id(p) for p in inner}
    other = [p for p in net.parameters() if id(p) not in chosen]
    return [
        Muon(inner, lr=settings.muon_lr, weight_decay=settings.weight_decay),
        torch.optim.AdamW(other, lr=settings.adam_lr, betas=(0.9, 0.99), weight_decay=0),
    ]


def lr_share(step: int, warmup_steps: int, cooldown: tuple[int, int] | None) -> float:
    """Returns the learning rate's share of its peak.

    Args:
        step: Counted from 0.
        warmup_steps: Of the linear rise.
        cooldown: Its first step and its number of steps.
    """
    share = min(1.0, (step + 1) / warmup_steps)
    if cooldown is not None:
        share *= min(1.0, max(0.0, 1 - (step - cooldown[0]) / cooldown[1]))
    return share


# --- one run ------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Progress:
    """What has been spent so far, over all runs."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    """Processor time of the learning process on a CPU, time of the clock on a GPU."""
    cooldown: tuple[int, int] | None = None
    """Its first step and its number of steps."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Each run's first step and settings."""


class Training:
    """The student, its optimizers and its progress: what a checkpoint holds."""

    def __init__(self, arguments: argparse.Namespace, settings: Settings) -> None:
        self.work: Path = arguments.work
        self.settings = settings
        self.device = torch.device(arguments.device)
        on_cpu = self.device.type == "cpu"
        torch.manual_seed(settings.seed)
        self.net: Any = timm.create_model(finetune_small.NAME, num_classes=0)
        self.net.to(self.device, memory_format=torch.channels_last)
        self.optimizers = make_optimizers(self.net, settings)
        self.progress = Progress()
        photos, held_out = load_photos(arguments.photos)
        self.photo_count = len(list(arguments.photos.iterdir()))
        places = torch.arange(len(photos))
        self.views = Views(photos.to(self.device), places[~held_out], settings)
        self.held_out = dataclasses.replace(self.views, places=places[held_out])
        self.teacher = Teacher(arguments.teacher, folder=self.work, on_cpu=on_cpu).to(self.device)
        first = [next(taught(self.views, self.teacher, step))[1] for step in range(8)]
        self.scales = measure_scales([tuple(maps) for maps in first])
        self.stopped = False

    def save(self) -> None:
        """Writes a checkpoint: two files of about 9 MB, then the JSON file that names them."""
        names = {part: f"{part}-{self.progress.step:07d}.pt" for part in ("student", "optimizers")}
        student = {"net": self.net.state_dict(), "scales": dataclasses.asdict(self.scales)}
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        for name, state in zip(names.values(), (student, optimizers), strict=True):
            write_atomically(self.work / name, lambda file, state=state: torch.save(state, file))
        progress = dataclasses.asdict(self.progress)
        write_json(self.work / "checkpoint.json", {**names, "progress": progress})
        kept = set(names.values())
        for old in self.work.glob("*-*.pt"):
            if old.name not in kept:
                old.unlink()

    def load(self) -> None:
        """Goes on from the checkpoint in the work folder."""
        found = read_json(self.work / "checkpoint.json")
        student, optimizers = (
            torch.load(self.work / found[part], map_location=self.device, weights_only=True)
            for part in ("student", "optimizers")
        )
        self.net.load_state_dict(student["net"])
        self.scales = Scales(**student["scales"])
        for optimizer, saved in zip(self.optimizers, optimizers, strict=True):
            optimizer.load_state_dict(saved)
        progress = found["progress"]
        cooldown = progress["cooldown"] and tuple(progress["cooldown"])
        self.progress = Progress(**{**progress, "cooldown": cooldown})

    def start_from(self, path: Path) -> None:
        """Goes on from exported weights: all but the optimizers' momentum, and rounded to fp16."""
        state = {name: value.float() for name, value in load_file(path).items()}
        for name in OUTPUT_SCALE:
            state[name] /= self.scales.deviations[-1].cpu()
        self.net.load_state_dict(state)
        known = read_json(path.with_suffix(".json"))
        self.progress = Progress(
            **{name: known[name] for name in ("step", "images", "seconds", "history")}
        )

    def train(self, *, minutes: float, steps: int | None, beside: bool, log: Any) -> None:
        """Trains until the minutes or the steps are used up, the cool-down ends, or SIGTERM."""
        progress, settings = self.progress, self.settings
        progress.history.append(
            {
                "first_step": progress.step,
                "device": self.device.type,
                **dataclasses.asdict(settings),
            }
        )
        source = taught_beside if beside else taught
        before, start = progress.seconds, self._clock()
        saved = before
        classifier, deviation = self.teacher.net.classifier, self.scales.deviations[-1]
        deviation = deviation.to(self.device)
        first, running = progress.step, {}
        self.net.train()
        for images, maps in source(self.views, self.teacher, first):
            step, cooldown = progress.step, progress.cooldown
            share = lr_share(step, settings.warmup_steps, cooldown)
            for optimizer, peak in zip(
                self.optimizers, (settings.muon_lr, settings.adam_lr), strict=True
            ):
                optimizer.param_groups[0]["lr"] = peak * share
            wanted = self.scales.apply(tuple(x.to(self.device) for x in maps))
            own = None if step >= settings.own_steps else self.views.own_maps(step)
            images = images.to(self.device, memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.bfloat16):
                found = student_maps(self.net, images, wanted, own)
            parts = losses(found, wanted, classifier, deviation)
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            total(parts, step, settings).backward()
            for optimizer in self.optimizers:
                optimizer.step()
            for name, part in parts.items():
                running[name] = running.get(name, part.detach()).lerp(part.detach(), 0.02)
            progress.step += 1
            progress.images += len(images)
            progress.seconds = before + self._clock() - start
            ended = (
                self.stopped
                or (steps is not None and progress.step >= first + steps)
                or progress.seconds - before >= 60 * minutes
                or (cooldown is not None and progress.step >= sum(cooldown))
            )
            if progress.step % 50 == 0 or ended:
                shown = {name: round(float(part), 3) for name, part in running.items()}
                spent = {"images": progress.images, "seconds": round(progress.seconds, 1)}
                row = {"step": progress.step, **spent, "lr": round(share, 4), **shown}
                if progress.step % 500 == 0 or ended:
                    row["held_out"] = self.evaluate()
                print(json.dumps(row), file=log, flush=True)
            if ended or progress.seconds - saved >= SECONDS_BETWEEN_CHECKPOINTS:
                self.save()
                saved = progress.seconds
            if ended:
                return

    def evaluate(self, batches: int = 4) -> dict[str, float]:
        """Returns squared errors on held-out photos as shares of the teacher's variance.

        `agreement` is how often the teacher's classifier gives the same answer to both features.
        """
        self.net.eval()
        classifier = self.teacher.net.classifier
        deviation = self.scales.deviations[-1].to(self.device)
        rows = []
        with torch.inference_mode():
            for step in range(batches):
                images, maps = next(taught(self.held_out, self.teacher, step))
                wanted = self.scales.apply(tuple(maps))
                images = images.contiguous(memory_format=torch.channels_last)
                found = student_maps(self.net, images, wanted, None)
                found.append(found[-1].mean((2, 3)))
                wanted.append(wanted[-1].mean((2, 3)))
                row = [
                    float((x - y).square().mean() / y.var(dim=[0, *range(2, y.ndim)]).mean())
                    for x, y in zip(found, wanted, strict=True)
                ]
                same = classifier(found[-1] * deviation).argmax(1) == classifier(
                    wanted[-1] * deviation
                ).argmax(1)
                rows.append([*row, float(same.float().mean())])
        self.net.train()
        names = ("map4", "map8", "map16", "map32", "features", "agreement")
        return {n: round(v, 4) for n, v in zip(names, np.mean(rows, 0).tolist(), strict=True)}

    def export(self, path: Path) -> None:
        """Writes the weights as fp16 safetensors, the features back on the teacher's scale."""
        state = {
            name: value.detach().cpu().clone()
            for name, value in self.net.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        for name in OUTPUT_SCALE:
            state[name] *= self.scales.deviations[-1].cpu()
        for name, value in state.items():
            if value.is_floating_point():
                state[name] = value.half().contiguous()
        content = save(state, metadata={"format": "pt"})
        write_atomically(path, lambda file: file.write(content))
        write_json(
            path.with_suffix(".json"),
            {
                "name": finetune_small.NAME,
                "sha256": hashlib.sha256(content).hexdigest(),
                "recipe": "recipes/embedded_backbone.py",
                "commit": None,
                "photos": self.photo_count,
                "squares": len(self.views.photos),
                "teacher": "mobilenetv2_100 (timm), ImageNet-1k",
                "torch": torch.__version__,
                "timm": timm.__version__,
                **dataclasses.asdict(self.progress),
                "held_out": self.evaluate(),
            },
        )

    def _clock(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        return time.perf_counter()


def main() -> None:
    """Parses the command line, trains, exports."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="Folder of unlabeled photos.")
    parser.add_argument("--teacher", type=Path, required=True, help="mobilenetv2_100 safetensors.")
    parser.add_argument("--work", type=Path, required=True, help="Folder for checkpoints.")
    parser.add_argument("--output", type=Path, help="Where to write the fp16 weights at the end.")
    parser.add_argument("--minutes", type=float, default=1e9, help="Stop after so much time.")
    parser.add_argument("--steps", type=int, help="Stop after so many further steps; 0: none.")
    parser.add_argument("--resume", action="store_true", help="Go on from the last checkpoint.")
    parser.add_argument("--start", type=Path, help="Go on from exported weights instead.")
    parser.add_argument("--cooldown", type=int, help="End the schedule with so many steps.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="On a CPU: of the learning process.")
    parser.add_argument(
        "--one-process", action="store_true", help="On a CPU: prepare batches in this process."
    )
    for item in dataclasses.fields(Settings):
        flag = "--" + item.name.replace("_", "-")
        parser.add_argument(flag, type=type(item.default), default=item.default)
    arguments = parser.parse_args()
    values = {item.name: getattr(arguments, item.name) for item in dataclasses.fields(Settings)}
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)
    if arguments.device == "cpu":
        torch.set_num_threads(arguments.threads)
    training = Training(arguments, Settings(**values))
    if arguments.resume:
        training.load()
    elif arguments.start:
        training.start_from(arguments.start)
    if arguments.cooldown:
        kept = arguments.work / "before_cooldown"
        kept.mkdir(exist_ok=True)
        for file in (arguments.work / "checkpoint.json", *arguments.work.glob("*-*.pt")):
            shutil.copy(file, kept)
        training.progress.cooldown = (training.progress.step, arguments.cooldown)
    signal.signal(signal.SIGTERM, lambda *_: setattr(training, "stopped", True))
    if arguments.steps != 0:
        with (arguments.work / "log.jsonl").open("a") as log:
            training.train(
                minutes=arguments.minutes,
                steps=arguments.steps,
                beside=arguments.device == "cpu" and not arguments.one_process,
                log=log,
            )
    if arguments.output:
        training.export(arguments.output)


if __name__ == "__main__":
    main()
