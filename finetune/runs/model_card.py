"""Model card: README.md of a run, also for the Hugging Face hub."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import FinetuneError, RunError
from finetune.files import write_text
from finetune.formatting import count, interval, number, percent, visible
from finetune.photos.split.split import SplitRow, read_split
from finetune.runs.answers import calibration_sentences
from finetune.runs.folder import RunFolder, fitted_head, headline_part
from finetune.tasks.base import Column, Task, number_text
from finetune.tasks.factory import task_of_config

CARD = "README.md"

MAX_LABELS = 200
"""Maximum number of rows of the label table; labels.json holds all labels."""

_Metrics = Mapping[str, Any]

_PARTS = ("train", "validation", "test")


def write_model_card(run: RunFolder) -> Path:
    """Writes the model card ``README.md`` of a run and returns its path.

    It contains no path of this machine, so that it can be published.

    Raises:
        RunError: The run lacks a file that the card needs.
        StorageError: The card cannot be written.
    """
    return write_text(run.path / CARD, model_card(run))


def model_card(run: RunFolder) -> str:
    """Returns a run's model card in Markdown, with the hub's YAML block before it.

    Raises:
        RunError: The run lacks a file that the card needs.
    """
    try:
        return _card(run)
    except KeyError as error:
        raise RunError(
            f"{run.metrics_file} does not fit the other files of {run.path}: it has no {error}. "
            "Copy the complete run folder again."
        ) from error


def _card(run: RunFolder) -> str:
    config = run.read(run.config_file)
    labels: list[str] = run.read(run.labels_file)
    metrics: dict[str, Any] = run.read(run.metrics_file)
    calibration = run.read(run.calibration_file)
    preprocessing = run.read(run.preprocessing_file)
    rows = _rows(run)
    task = task_of_config(config)
    part = headline_part(metrics)
    found = metrics[part]
    part_name = "cross-validated" if part == "folds" else part
    model = f"`{config['model']}` {_trained(config)}"
    sections = [
        _front_matter(run, config, task.metric_for_hub(found)),
        f"# {visible(run.name)}",
        task.summary(model, labels, part_name, found),
        "## Labels and photos\n\n" + label_table(task, labels, rows, found),
        "## Data split\n\n" + _split(config, rows),
        "## Accuracy\n\n" + accuracy_table(task, metrics),
        "## Calibration\n\n" + task.calibration_text(calibration, found),
        *_answers(calibration),
        "## Intended use and limits\n\n" + intended_use(task, part, found),
        "## Use\n\n" + _usage(run, task.prediction_attribute),
        "## Training\n\n" + _making(config, preprocessing, search=_search(run)),
    ]
    return "\n\n".join(sections) + "\n"


def _answers(calibration: _Metrics) -> list[str]:
    """Returns the section on sure, unsure and unknown answers; none for older runs."""
    sentences = calibration_sentences(calibration)
    if not sentences:
        return []
    listed = "\n".join(f"- {sentence}" for sentence in sentences)
    return [
        "## Sure, unsure and unknown\n\n"
        "A label is sure where the claimed precision holds on held-out photos, else the answer is "
        "unsure, with the best guesses. A photo unlike anything learned is unknown.\n\n"
        f"{listed}\n\nThis holds for photos like those of the training. For another place, season "
        "or camera no claim can hold."
    ]


def label_table(
    task: Task, labels: Sequence[str], rows: Sequence[SplitRow], found: _Metrics
) -> str:
    """Returns a row per label: photos by part and the metrics of the label."""
    counts = Counter((label, str(row.part)) for row in rows for label in row.labels)
    parts = [part for part in _PARTS if any(key[1] == part for key in counts)]
    titles = [column.title for column in task.label_columns]
    lines = [
        "| label | " + " | ".join((*parts, *titles)) + " |",
        "|---|" + "---:|" * (len(parts) + len(titles)),
    ]
    for label in labels[:MAX_LABELS]:
        figures = found.get("labels", {}).get(label, {})
        cells = [f"{counts[label, part]:,}" for part in parts]
        cells += [_cell(column, figures) for column in task.label_columns]
        lines.append("| " + " | ".join((_escaped(label), *cells)) + " |")
    none = Counter(str(row.part) for row in rows if not row.labels)
    if none:
        cells = [f"{none[part]:,}" for part in parts] + [""] * len(titles)
        lines.append("| *no label* | " + " | ".join(cells) + " |")
    if len(labels) > MAX_LABELS:
        lines.append(f"\nand {len(labels) - MAX_LABELS:,} more; see labels.json.")
    return "\n".join(lines)


def accuracy_table(task: Task, metrics: _Metrics) -> str:
    """Returns a row per part."""
    columns = task.part_columns
    lines = [
        "| part | photos | " + " | ".join(column.title for column in columns) + " |",
        "|---|---:|"
        + "".join("---|" if column.kind == "interval" else "---:|" for column in columns),
    ]
    for part in (*_PARTS, "folds"):
        if found := metrics.get(part):
            cells = [part, f"{found['photos']:,}", *(_cell(column, found) for column in columns)]
            lines.append("| " + " | ".join(cells) + " |")
    if "folds" in metrics:
        lines.append(
            "\nThe metrics of the folds are those of models trained as this one, each photo "
            "predicted once by one that was not trained on it (cross-validation)."
        )
    elif "test" not in metrics:
        lines.append(
            "\nThe validation photos chose the epoch and fitted the calibration, so that these "
            "figures are optimistic; there is no test part."
        )
    return "\n".join(lines)


def _cell(column: Column, figures: _Metrics) -> str:
    value = figures.get(column.key)
    if value is None:
        return "never" if column.key == "threshold" else ""
    if column.kind == "interval":
        return interval(value)
    if column.kind == "number":
        return number_text(value)
    return percent(value, 0) if column.key == "threshold" else percent(value)


def intended_use(task: Task, part: str, found: _Metrics) -> str:
    """Returns the intended use, with the weakest labels."""
    column = task.label_columns[-1]
    worst = sorted(
        (figures[column.key], label)
        for label, figures in found.get("labels", {}).items()
        if figures.get(column.key) is not None
    )[:3]
    text = (
        "For photos like those it was trained on: the same kinds of subject, places and "
        f"cameras. {task.limits_text()} It is not intended for decisions about people, health or "
        "safety."
    )
    if not worst:
        return text
    named = ", ".join(f"{_escaped(label)} ({percent(share, 0)})" for share, label in worst)
    where = "the folds" if part == "folds" else part
    return f"{text}\n\nLowest {column.title} on {where}: {named}."


def _escaped(text: str) -> str:
    """Returns text that a Markdown table shows literally."""
    text = visible(text.replace("\n", " "))
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _front_matter(run: RunFolder, config: Mapping[str, Any], metric: tuple[str, float]) -> str:
    # JSON strings are YAML strings, with any characters in names.
    quoted = json.dumps
    name, value = metric
    origin = str(config.get("weights", ""))
    # Only weights of the hub have a page to link to.
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
    mode = config["settings"].get("training", {}).get("mode")
    return "with a new head on a frozen backbone" if mode == "head" else "fully fine-tuned"


def _rows(run: RunFolder) -> tuple[SplitRow, ...]:
    try:
        return read_split(run.split_file)
    except FinetuneError:
        return ()


def _split(config: Mapping[str, Any], rows: Sequence[SplitRow]) -> str:
    counts = Counter(str(row.part) for row in rows)
    shown = ", ".join(f"{counts[part]:,} {part}" for part in _PARTS if counts[part])
    folds = {row.fold for row in rows if row.fold is not None and row.fold >= 0}
    part = "fold" if folds else "part"
    shown += f", in {len(folds)} folds" if folds else ""
    proof = config.get("split")
    if not proof:
        return f"{shown}."
    leaks = sum((proof.get("leaks") or {}).values())
    straddling = proof.get("straddling", 0)
    leakage = (
        f"No group of near-duplicates is in two {part}s"
        if not leaks and not straddling
        else f"{leaks:,} held-out photos have a near-duplicate in training, so that the figures "
        "below are too high"
    )
    nearest = (proof.get("nearest") or {}).get("distance_bits")
    closest = (
        f" The most similar photos of different {part}s differ in {nearest} of 64 bits of the "
        "perceptual hash."
        if nearest is not None
        else ""
    )
    return f"{shown}. {leakage} ({proof.get('groups', 0):,} groups).{closest}"


def _usage(run: RunFolder, prediction_attribute: str) -> str:
    name = run.name
    return (
        "```python\n"
        "from finetune import Predictor\n\n"
        f"predictor = Predictor.load({json.dumps(name, ensure_ascii=False)})\n"
        f'print(predictor("photo.jpg").{prediction_attribute})\n'
        "```"
    ) + (
        ""
        if not run.timm_folder.is_dir()
        else (
            "\n\nor with timm alone, from the folder `timm` of the run or from the hub:\n\n"
            "```python\n"
            "import timm\n\n"
            f'model = timm.create_model("local-dir:{name}/timm", pretrained=True).eval()\n'
            "```"
        )
    )


def _search(run: RunFolder) -> str:
    """Returns the table of the models that were tried, or an empty string."""
    if not run.model_search_file.is_file():
        return ""
    found = run.read(run.model_search_file)
    lines = ["", "", f"Models tried on {count(found['photos'], 'held-out photo')}:", ""]
    lines += ["| model | input | right | log loss | ms/photo | |", "|---|--:|--:|--:|--:|---|"]
    for index, tried in enumerate(found["candidates"]):
        figures = [percent(tried["accuracy"]), number(tried["log_loss"])]
        figures.append(number(tried["milliseconds"], 0))
        remark = tried["skipped"] or ("chosen" if index == found["chosen"] else "")
        row = [f"`{tried['model']}`", f"{tried['size']} px", *figures, remark]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _making(
    config: Mapping[str, Any], preprocessing: Mapping[str, Any], *, search: str = ""
) -> str:
    settings = config["settings"]
    versions = ", ".join(f"{name} {value}" for name, value in config.get("versions", {}).items())
    weights = Path(str(config.get("weights", ""))).name
    return (
        f"- backbone: `{config['model']}`, weights `{weights}`, {_trained(config)}\n"
        f"- input: {preprocessing['size']} pixels, {preprocessing.get('interpolation')}, "
        f"{preprocessing.get('fit')} at "
        f"{preprocessing.get('crop_pct', 1):g}\n"
        f"- augmentation: {settings.get('augmentation', {}).get('augment')}\n"
        f"- {_fit(config)}, seed {settings.get('machine', {}).get('seed')}\n"
        f"- made {str(config.get('started', ''))[:10]} with {versions}"
        f"{search}"
    )


def _fit(config: Mapping[str, Any]) -> str:
    """Returns how the weights were found."""
    training = config["settings"].get("training", {})
    head = fitted_head(config)
    if head is not None:
        return f"head: {head}"
    return (
        f"epochs: {config.get('epochs_done', training.get('epochs'))}, best "
        f"{config.get('best_epoch', '?')}{_share(config)}; batch {training.get('batch_size')}, "
        f"lr {training.get('lr')}, weight decay {training.get('weight_decay')}"
    )


def _share(config: Mapping[str, Any]) -> str:
    share = config.get("share_of_training", 1.0)
    if share == 1:
        return ""
    return f" (weights at {percent(share, 0)} of the way from the start to it)"
