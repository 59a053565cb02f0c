"""``finetune preview``: pictures of augmented photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.cli.command import Seed, SetNumbers, recipe_numbers
from finetune.cli.console import Json, Quiet, output
from finetune.config_io import read_toml
from finetune.errors import AugmentError, CollectionError, ConfigError


def preview(
    photos: Annotated[
        Path | None, typer.Argument(help="A folder of photos, or one photo; default: ./photos.")
    ] = None,
    augment: Annotated[
        str, typer.Option(help="A recipe: standard, mobius, cifar ..., or a pipeline file (.yaml).")
    ] = "standard",
    presets: Annotated[
        bool, typer.Option("--presets", help="Show the eight named Möbius maps instead.")
    ] = False,
    rows: Annotated[int, typer.Option(help="Number of photos.", min=1, max=50)] = 4,
    draws: Annotated[int, typer.Option(help="Augmented versions per photo.", min=1, max=50)] = 8,
    size: Annotated[int, typer.Option(help="Side of a tile in pixels.", min=16, max=1024)] = 224,
    seed: Seed = 0,
    set_: SetNumbers = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with the section recipe: its numbers.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--output", "-o", help="The picture; the page is put beside it.")
    ] = Path("preview.png"),
    save_pipeline: Annotated[
        Path | None,
        typer.Option(help="Also write the recipe as an albumentations file (.yaml) to edit."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Preview an augmentation on your photos (PNG and HTML)."""
    output.json, output.quiet = json, quiet
    numbers = _numbers(config, set_ or [])
    from finetune.augmentation import contact_sheet
    from finetune.augmentation.batch_augment import BatchAugment
    from finetune.augmentation.pipelines import create_augmentation
    from finetune.augmentation.recipes import RECIPES, named, to_dict
    from finetune.photos.preprocessing import Preprocessing

    preprocessing = Preprocessing(size=size)
    chosen = (
        None
        if presets
        else create_augmentation(augment, preprocessing, seed=seed, overrides=numbers)
    )
    if save_pipeline is not None and augment not in RECIPES:
        raise AugmentError(f"--save-pipeline writes down a recipe; {augment} is a file already.")
    names, pixels = _load(photos, rows, preprocessing.working_size)
    if chosen is None:
        drawn = contact_sheet.preset_sheet(pixels, names=names, size=size, grid=True)
    else:
        title = f"--augment {augment}, seed {seed}"
        drawn = contact_sheet.draw_sheet(
            chosen, pixels, names=names, epochs=draws, title=title, grid=True
        )
    fields = to_dict(chosen.recipe) if isinstance(chosen, BatchAugment) else {}
    png = contact_sheet.write_png(drawn, out.with_suffix(".png"))
    bends = presets or bool(fields.get("mobius_probability"))
    page = contact_sheet.write_html(
        drawn,
        out.with_suffix(".html"),
        fields={key: _text(value) for key, value in fields.items()},
        note=contact_sheet.MOBIUS_NOTE if bends else "",
    )
    written: dict[str, Any] = {"png": str(png), "html": str(page), "photos": list(names)}
    output.text(str(png))
    output.text(str(page))
    if save_pipeline is not None:
        from finetune.augmentation.pipelines import compose, write_pipeline

        write_pipeline(compose(named(augment, numbers), size=size), save_pipeline)
        written["pipeline"] = str(save_pipeline)
        output.text(str(save_pipeline))
    output.document(written)


def _numbers(config: Path | None, pairs: list[str]) -> dict[str, Any]:
    """Returns the recipe's numbers of a file, with those of --set laid over them."""
    numbers: dict[str, Any] = {}
    if config is not None:
        section = read_toml(config).get("recipe", {})
        if not isinstance(section, dict):
            raise ConfigError(f"--config {config}: [recipe] is not a section.")
        numbers.update(section)
    return numbers | recipe_numbers(pairs)


def _load(photos: Path | None, rows: int, side: int) -> tuple[tuple[str, ...], Any]:
    """Returns names and images of photos spread over the folders; unreadable ones are left out."""
    import numpy as np

    from finetune.errors import DecodeError
    from finetune.photos.crops import load_image

    root = photos or (Path("photos") if Path("photos").is_dir() else Path())
    names: list[str] = []
    images = []
    for path in _spread(root):
        try:
            images.append(load_image(path, size=side))
        except DecodeError as error:
            output.warn(f"{path} is left out: {error.reason}.")
            continue
        names.append(path.name if path == root else str(path.relative_to(root)))
        if len(names) == rows:
            break
    if not names:
        raise CollectionError(f"There are no photos in {root} that can be opened.")
    return tuple(names), np.stack(images)


def _spread(root: Path) -> list[Path]:
    """Returns the photos of a folder, one of each sub-folder in turn."""
    from finetune.photos.scan import find_photos

    if root.is_file():
        return [root]
    if not root.is_dir():
        raise CollectionError(f"There is no folder or photo {root}.")
    folders: dict[str, list[Path]] = {}
    for file in find_photos(root).files:
        path = root / file.path
        folders.setdefault(str(path.parent), []).append(path)
    # The middle one of a folder first: names that sort first are often odd ones out.
    ordered = [paths[len(paths) // 2 :] + paths[: len(paths) // 2] for paths in folders.values()]
    longest = max(map(len, ordered), default=0)
    return [paths[place] for place in range(longest) for paths in ordered if place < len(paths)]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
