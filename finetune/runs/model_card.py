"""The model card: README.md of a run, ready for people and for the Hugging Face hub."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from finetune.errors import FinetuneError
from finetune.files import write_text
from finetune.photos.split.split import SplitRow, read_split
from finetune.runs import multi_label_card, single_label_card
from finetune.runs.card_text import PARTS
from finetune.runs.folder import RunFolder
from finetune.tasks.task import uncalibrated_task

CARD = "README.md"

_Figures = Mapping[str, Any]


def write_model_card(run: RunFolder) -> Path:
    """Writes the model card ``README.md`` of a run and returns its path.

    It names no path of this machine, so that it can be shown to anyone.

    Raises:
        RunError: The run lacks a file that the card is made from.
        StorageError: The card cannot be written.
    """
    return write_text(run.path / CARD, model_card(run))


def model_card(run: RunFolder) -> str:
    """Returns a run's model card in Markdown, with the hub's YAML block before it.

    Raises:
        RunError: The run lacks a file that the card is made from.
    """
    config = run.read(run.config_file)
    labels: list[str] = run.read(run.labels_file)
    metrics: dict[str, Any] = run.read(run.metrics_file)
    calibration = run.read(run.calibration_file)
    preprocessing = run.read(run.preprocessing_file)
    rows = _rows(run)
    card = _card_of(config)
    judged = next(part for part in ("test", "folds", "validation") if part in metrics)
    found = metrics[judged]
    model = f"`{config['model']}` {_trained(config)}"
    parts = [
        _front_matter(run, config, card.metric_of(found)),
        f"# {run.name}",
        card.summary(model, labels, judged, found),
        "## Labels and photos\n\n" + card.label_table(labels, rows, found),
        "## How the photos were split\n\n" + _split(config, rows),
        "## Accuracy\n\n" + card.accuracy(metrics),
        "## Calibration\n\n" + card.calibration(calibration, found),
        "## Intended use and limits\n\n" + card.intended_use(judged, found),
        "## Use\n\n" + _usage(run, card.ANSWER),
        "## How it was made\n\n" + _making(config, preprocessing),
    ]
    return "\n\n".join(parts) + "\n"


class _Card(Protocol):
    """Text of a card that depends on the task."""

    @property
    def ANSWER(self) -> str: ...  # noqa: N802 - a constant of a module

    def metric_of(self, found: _Figures) -> tuple[str, float]: ...

    def summary(self, model: str, labels: Sequence[str], judged: str, found: _Figures) -> str: ...

    def label_table(
        self, labels: Sequence[str], rows: Sequence[SplitRow], found: _Figures
    ) -> str: ...

    def accuracy(self, metrics: _Figures) -> str: ...

    def calibration(self, content: _Figures, found: _Figures) -> str: ...

    def intended_use(self, judged: str, found: _Figures) -> str: ...


def _card_of(config: Mapping[str, Any]) -> _Card:
    if uncalibrated_task(config).multi_label:
        return multi_label_card
    return single_label_card


def _front_matter(run: RunFolder, config: Mapping[str, Any], metric: tuple[str, float]) -> str:
    # JSON strings are YAML strings, whatever a person's names hold.
    quoted = json.dumps
    name, value = metric
    origin = str(config.get("weights", ""))
    # Only weights of the hub have a page there to point to.
    base = (f"base_model: {quoted(origin)}",) if origin.startswith("timm/") else ()
    return "\n".join(
        (
            "---",
            "library_name: timm",
            "pipeline_tag: image-classification",
            "tags:",
            "- image-classification",
            "- timm",
            "- finetune",
            *base,
            "metrics:",
            f"- {name}",
            "model-index:",
            f"- name: {quoted(run.name, ensure_ascii=False)}",
            "  results:",
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            "      name: own photos",
            "      type: private",
            "    metrics:",
            f"    - type: {name}",
            f"      value: {value:.4f}",
            "---",
        )
    )


def _trained(config: Mapping[str, Any]) -> str:
    mode = config["settings"]["training"].get("mode")
    return "with a new head on a frozen backbone" if mode == "head" else "trained as a whole"


def _rows(run: RunFolder) -> tuple[SplitRow, ...]:
    try:
        return read_split(run.split_file)
    except FinetuneError:
        return ()


def _split(config: Mapping[str, Any], rows: Sequence[SplitRow]) -> str:
    counts = Counter(str(row.part) for row in rows)
    shown = ", ".join(f"{counts[part]:,} {part}" for part in PARTS if counts[part])
    proof = config.get("split")
    if not proof:
        return f"{shown}."
    leaks = sum((proof.get("leaks") or {}).values())
    straddling = proof.get("straddling", 0)
    said = (
        "No group of near-duplicates lies on both sides"
        if not leaks and not straddling
        else f"{leaks:,} held-out photos have a near-duplicate in train, so that the figures below "
        "are flattered"
    )
    nearest = (proof.get("nearest") or {}).get("distance_bits")
    closest = (
        f" The most alike pair across the split differs in {nearest} of 64 bits of its perceptual "
        "hash."
        if nearest is not None
        else ""
    )
    return f"{shown}. {said} ({proof.get('groups', 0):,} groups).{closest}"


def _usage(run: RunFolder, answer: str) -> str:
    name = run.name
    return (
        "```python\n"
        "from finetune import Predictor\n\n"
        f"predictor = Predictor.load({json.dumps(name, ensure_ascii=False)})\n"
        f'print(predictor("photo.jpg").{answer})\n'
        "```\n\n"
        "or with timm alone, from the folder `timm` of the run or from the hub:\n\n"
        "```python\n"
        "import timm\n\n"
        f'model = timm.create_model("local-dir:{name}/timm", pretrained=True).eval()\n'
        "```"
    )


def _making(config: Mapping[str, Any], preprocessing: Mapping[str, Any]) -> str:
    settings = config["settings"]
    training = settings["training"]
    versions = ", ".join(f"{name} {value}" for name, value in config["versions"].items())
    weights = Path(str(config.get("weights", ""))).name
    return (
        f"- backbone: `{config['model']}`, weights `{weights}`, {_trained(config)}\n"
        f"- input: {preprocessing['size']} pixels, {preprocessing['interpolation']}, "
        f"{preprocessing['fit']} at "
        f"{preprocessing['crop_pct']:g}\n"
        f"- augmentation: {settings['augmentation'].get('augment')}\n"
        f"- epochs: {config.get('epochs_done', training.get('epochs'))}, best "
        f"{config.get('best_epoch', '?')}{_share(config)}; batch {training['batch_size']}, "
        f"lr {training['lr']}, weight decay {training['weight_decay']}, "
        f"seed {settings['machine']['seed']}\n"
        f"- made {str(config.get('started', ''))[:10]} with {versions}"
    )


def _share(config: Mapping[str, Any]) -> str:
    share = config.get("share_of_training", 1.0)
    if share == 1:
        return ""
    return f" (weights at {share:.0%} of the way from the start to it)"
