"""The model card: README.md of a run, ready for people and for the Hugging Face hub."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import FinetuneError
from finetune.evaluation.task import uncalibrated_task
from finetune.files import write_text
from finetune.photos.split import SplitRow, read_split
from finetune.runs import multilabel_card
from finetune.runs.folder import RunFolder

CARD = "README.md"

_PARTS = ("train", "validation", "test")
_MOST_LABELS = 200
_WORDS = {"folds": "cross-validated"}


def write_model_card(run: RunFolder) -> Path:
    """Writes ``README.md`` into a run from what the run holds, and returns its path.

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
    spec = run.read(run.preprocessing_file)
    rows = _rows(run)
    judged = next(part for part in ("test", "folds", "validation") if part in metrics)
    found = metrics[judged]
    if uncalibrated_task(config).multi_label:
        model = f"`{config['model']}` {_trained(config)}"
        about = [
            multilabel_card.summary(model, labels, judged, found),
            multilabel_card.label_table(labels, rows, found),
            multilabel_card.accuracy(metrics),
            multilabel_card.calibration(calibration, found),
            multilabel_card.intended_use(judged, found),
        ]
    else:
        about = [
            _summary(config, labels, judged, found),
            _label_table(labels, rows, found),
            "\n".join(_accuracy(metrics)),
            _calibration(calibration, found),
            _intended_use(judged, found),
        ]
    summary, table, accuracy, calibrated, limits = about
    parts = [
        _front_matter(run, config, found),
        f"# {run.name}",
        summary,
        "## Labels and photos\n\n" + table,
        "## How the photos were split\n\n" + _split(config, rows),
        "## Accuracy\n\n" + accuracy,
        "## Calibration\n\n" + calibrated,
        "## Intended use and limits\n\n" + limits,
        "## Use\n\n" + _usage(run, "labels" if uncalibrated_task(config).multi_label else "label"),
        "## How it was made\n\n" + _making(config, spec),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(run: RunFolder, config: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    # JSON strings are YAML strings, whatever a person's names hold.
    quoted = json.dumps
    origin = str(config.get("weights", ""))
    # Only weights of the hub have a page there to point to.
    several = uncalibrated_task(config).multi_label
    metric, value = multilabel_card.metric_of(found) if several else ("accuracy", found["top1"])
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
            f"- {metric}",
            "model-index:",
            f"- name: {quoted(run.name, ensure_ascii=False)}",
            "  results:",
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            "      name: own photos",
            "      type: private",
            "    metrics:",
            f"    - type: {metric}",
            f"      value: {value:.4f}",
            "---",
        )
    )


def _summary(
    config: Mapping[str, Any], labels: Sequence[str], judged: str, found: Mapping[str, Any]
) -> str:
    return (
        f"An image classifier of {len(labels)} labels: a `{config['model']}` "
        f"{_trained(config)}. On {found['photos']:,} {_WORDS.get(judged, judged)} photos it is "
        f"right {_share_with_interval(found)}."
    )


def _trained(config: Mapping[str, Any]) -> str:
    mode = config["settings"]["training"].get("mode")
    return "with a new head on a frozen backbone" if mode == "head" else "trained as a whole"


def _share_with_interval(found: Mapping[str, Any]) -> str:
    interval = found.get("top1_interval")
    shown = f"{found['top1']:.1%} of the time"
    if interval:
        shown += f" (95 % interval {interval[0]:.1%} to {interval[1]:.1%})"
    return shown


def _rows(run: RunFolder) -> tuple[SplitRow, ...]:
    try:
        return read_split(run.split_file)
    except FinetuneError:
        return ()


def _label_table(labels: Sequence[str], rows: Sequence[SplitRow], found: Mapping[str, Any]) -> str:
    counts = Counter((row.labels[0], str(row.part)) for row in rows)
    parts = [part for part in _PARTS if any(key[1] == part for key in counts)]
    lines = [
        "| label | " + " | ".join((*parts, "precision", "recall")) + " |",
        "|---|" + "---:|" * (len(parts) + 2),
    ]
    by_label = found.get("labels", {})
    for label in labels[:_MOST_LABELS]:
        figures = by_label.get(label, {})
        cells = [f"{counts[label, part]:,}" for part in parts]
        cells += [_percent(figures.get("precision")), _percent(figures.get("recall"))]
        lines.append("| " + " | ".join((_escaped(label), *cells)) + " |")
    if len(labels) > _MOST_LABELS:
        lines.append(f"\nand {len(labels) - _MOST_LABELS:,} more; see labels.json.")
    return "\n".join(lines)


def _split(config: Mapping[str, Any], rows: Sequence[SplitRow]) -> str:
    counts = Counter(str(row.part) for row in rows)
    shown = ", ".join(f"{counts[part]:,} {part}" for part in _PARTS if counts[part])
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


def _accuracy(metrics: Mapping[str, Any]) -> Iterator[str]:
    yield "| part | photos | right | 95 % interval | balanced | log loss | calibration error |"
    yield "|---|---:|---:|---|---:|---:|---:|"
    for part in (*_PARTS, "folds"):
        found = metrics.get(part)
        if not found:
            continue
        interval = found.get("top1_interval")
        ends = f"{interval[0]:.1%} to {interval[1]:.1%}" if interval else ""
        yield (
            f"| {part} | {found['photos']:,} | {found['top1']:.1%} | {ends} | "
            f"{_percent(found.get('balanced_accuracy'))} | {_number(found.get('log_loss'))} | "
            f"{_number(found.get('ece'))} |"
        )
    if "folds" in metrics:
        yield (
            "\nThe figures of the folds are those of networks trained as this one was, each photo "
            "answered once by one that did not see it (cross-validation)."
        )
    elif "test" not in metrics:
        yield (
            "\nThe validation photos chose the epoch and fitted the calibration, so that these "
            "figures lean to the good side; there is no test part."
        )


def _calibration(calibration: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    source = calibration.get("fitted_on", "validation")
    text = (
        f"Probabilities are softmax(logits / {calibration['temperature']:.4g}); the temperature "
        f"was fitted on {calibration.get('photos', 0):,} {source} "
        f"photos. Expected calibration error: {_number(found.get('ece'))} "
        f"({_number((found.get('uncalibrated') or {}).get('ece'))} before)."
    )
    if found.get("ece_honest") is not None:
        text += (
            f" A perfectly calibrated model of this size: {_number(found['ece_honest'])} by chance."
        )
    unknown = calibration.get("unknown")
    if unknown and unknown.get("threshold") is not None:
        text += (
            f"\n\nBelow a score ({unknown['score']}) of {unknown['threshold']:.4g} the answer is "
            f'"none of these". The threshold was chosen so that {unknown["precision"]:.0%} of the '
            f"answers given are right; {unknown['coverage']:.1%} of the photos of its own labels "
            "are answered."
        )
        if unknown.get("unknown_photos") and unknown.get("unknown_share"):
            text += (
                f" That reckons with {unknown['unknown_share']:.0%} of photos of labels it was "
                "never trained on, as hard to tell as the hardest of its own when held out."
            )
    return text


def _intended_use(judged: str, found: Mapping[str, Any]) -> str:
    worst = sorted(
        (figures["recall"], label)
        for label, figures in found.get("labels", {}).items()
        if figures.get("recall") is not None
    )[:3]
    weak = ", ".join(f"{_escaped(label)} ({share:.0%})" for share, label in worst)
    return (
        "To name what is on photos like those it was trained on: same kinds of subject, places and "
        "cameras. It knows no label but those above, and a photo of anything else gets one of them "
        "unless the score for unknown photos says so. It is not meant for decisions about people, "
        "health or safety.\n\n"
        f"Found least often on {'the folds' if judged == 'folds' else judged}: {weak}."
    )


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


def _making(config: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    settings = config["settings"]
    training = settings["training"]
    versions = ", ".join(f"{name} {value}" for name, value in config["versions"].items())
    weights = Path(str(config.get("weights", ""))).name
    return (
        f"- backbone: `{config['model']}`, weights `{weights}`, {_trained(config)}\n"
        f"- input: {spec['size']} pixels, {spec['interpolation']}, {spec['fit']} at "
        f"{spec['crop_pct']:g}\n"
        f"- augmentation: {settings['augmentation'].get('augment')}\n"
        f"- epochs: {config.get('epochs_done', training.get('epochs'))}, best "
        f"{config.get('best_epoch', '?')}; batch {training['batch_size']}, lr {training['lr']}, "
        f"weight decay {training['weight_decay']}, seed {settings['machine']['seed']}\n"
        f"- made {str(config.get('started', ''))[:10]} with {versions}"
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
