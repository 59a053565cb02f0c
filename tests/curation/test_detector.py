from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.curation.detector import Detector, choose_box
from finetune.errors import ModelError

BIRD, DOG, PERSON, CHAIR = 16, 18, 1, 62


def chosen(rows: list[tuple[tuple[float, ...], int, float]]) -> tuple[float, ...] | None:
    boxes, labels, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return choose_box(
        np.array(boxes, float).reshape(-1, 4), np.array(labels, int), np.array(scores, np.float32)
    )


def test_animals_come_first_however_large_the_rest_is() -> None:
    bird = (10.0, 10.0, 30.0, 30.0)
    assert chosen([((0, 0, 99, 99), PERSON, 0.99), (bird, BIRD, 0.5)]) == bird


def test_of_several_animals_the_surest_and_largest_counts() -> None:
    large, small = (0.0, 0.0, 60.0, 60.0), (70.0, 70.0, 80.0, 80.0)
    assert chosen([(small, BIRD, 0.9), (large, DOG, 0.8)]) == large
    assert chosen([(small, BIRD, 0.9), ((0, 0, 12, 12), DOG, 0.45)]) == small


def test_things_count_where_there_is_no_animal() -> None:
    chair = (5.0, 5.0, 9.0, 9.0)
    assert chosen([(chair, CHAIR, 0.7), ((0, 0, 50, 50), BIRD, 0.1)]) == chair


def test_nothing_sure_is_no_subject() -> None:
    assert chosen([]) is None
    assert chosen([((0, 0, 50, 50), BIRD, 0.39)]) is None


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91)
    path = tmp_path_factory.mktemp("coco") / "ssdlite320_mobilenet_v3_large_coco-a79551df.pth"
    torch.save(module.state_dict(), path)
    return path


def test_a_weights_file_becomes_a_detector(weights: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.full((80, 120, 3), 90, np.uint8)).save(photo)
    detector = Detector(weights)
    assert detector.crop_of(photo) is None  # untrained: sure of nothing
    detector.module = _Fixed()
    crop = detector.crop_of(photo)
    assert crop is not None
    assert (crop.center_x * 120, crop.center_y * 80) == pytest.approx((40, 30))
    assert crop.side * 80 == pytest.approx(20 * 1.1)


class _Fixed(torch.nn.Module):
    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        assert images[0].shape == (3, 80, 120)
        return [
            {
                "boxes": torch.tensor([[30.0, 25.0, 50.0, 35.0]]),
                "labels": torch.tensor([BIRD]),
                "scores": torch.tensor([0.9]),
            }
        ]


def test_a_file_of_another_name_or_content_is_refused(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "detector.pth"
    other.write_bytes(b"")
    with pytest.raises(ModelError) as caught:
        Detector(other)
    text = str(caught.value)
    assert text.startswith(
        f"--detector {other}: the file's name must start with the detector's, one of "
        "fasterrcnn_mobilenet_v3_large_320_fpn, "
    )
    assert text.endswith(". Rename it.")
    wrong = tmp_path / "fasterrcnn_mobilenet_v3_large_fpn.pth"
    wrong.write_bytes(weights.read_bytes())
    with pytest.raises(ModelError) as caught:
        Detector(wrong)
    assert str(caught.value).startswith(
        f"--detector {wrong} does not fit fasterrcnn_mobilenet_v3_large_fpn: "
    )
    gone = tmp_path / "ssdlite320_mobilenet_v3_large.pth"
    with pytest.raises(ModelError) as caught:
        Detector(gone)
    assert str(caught.value) == f"--detector {gone}: there is no such file."
