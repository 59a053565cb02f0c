"""``finetune demo``: training and prediction on drawn photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.command import Seed
from finetune.cli.console import Json, Quiet, output
from finetune.errors import ConfigError


def demo(
    folder: Annotated[Path, typer.Argument(help="New folder for photos and run.")] = Path(
        "finetune-demo"
    ),
    per_label: Annotated[int, typer.Option(help="Photos of each species.", min=6)] = 48,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw a few bird photos, train on them and predict new ones.

    It needs no internet and none of your photos. The collection has the flaws of a real one:
    sideways photos, bursts, a photo with two labels, a corrupt file.
    """
    output.json, output.quiet = json, quiet
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise ConfigError(
            f"{folder} exists and is not empty. Name another folder: finetune demo FOLDER"
        )
    from finetune.demo_data import draw_collection, draw_unseen

    output.info(f"Drawing a demo collection into {folder / 'photos'}")
    with output.progress("Drawing") as advance:
        drawn = draw_collection(
            folder / "photos", photos_per_species=per_label, seed=seed, progress=advance
        )
        unseen = draw_unseen(folder / "unseen", count=8, seed=seed)
    from finetune.cli.train import show_result
    from finetune.cli.training_progress import TrainingView
    from finetune.config_io import resolve
    from finetune.curation.crop_policy import CropPolicyConfig
    from finetune.curation.crop_proposals import propose_crops
    from finetune.training.train import train

    output.info("Finding the bird in each photo")
    with output.progress("Finding") as advance:
        propose_crops(folder / "photos", CropPolicyConfig(method="saliency"), progress=advance)
    config = resolve({}, {"seed": seed})
    with TrainingView(output) as view:
        result = train(folder / "photos", config, run="demo", runs=folder / "runs", callback=view)
    show_result(result, follow=False)
    from finetune.cli.predict import show_photo
    from finetune.prediction.predictor import Predictor

    predictor = Predictor.load(result.run)
    predictions = predictor.predict_batch([folder / "unseen" / photo.path for photo in unseen])
    correct = sum(a.label == photo.species for a, photo in zip(predictions, unseen, strict=True))
    output.text(f"\nOf {len(unseen)} new photos, {correct} predicted correctly. The first:")
    show_photo(predictions[0], top=5)
    output.text(f"True label: {unseen[0].species}")
    output.text(
        f"\nPhotos    {folder / 'photos'} ({len(drawn.photos)} in {len(drawn.labels)} folders)"
    )
    output.text(f"Model     {result.run.path}")
    output.text(f"Next      cd {folder} && finetune predict unseen")
    output.document(
        {
            "photos": str(folder / "photos"),
            "run": str(result.run.path),
            "metrics": result.metrics,
            "seconds": round(result.seconds, 3),
            "unseen": [
                {**prediction.to_dict(5), "truth": photo.species}
                for prediction, photo in zip(predictions, unseen, strict=True)
            ],
        }
    )
