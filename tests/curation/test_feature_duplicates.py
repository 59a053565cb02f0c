"""Near-duplicates by features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from finetune.cli import app
from finetune.curation import feature_duplicates
from finetune.curation.embedding import Embedding
from finetune.curation.feature_duplicates import FeatureRule, find_pairs, nearest_neighbors
from finetune.photos.collection import Photo

Floats = NDArray[np.float32]


def clusters(rng: np.random.Generator, spread: float) -> Floats:
    """Ten kinds of 30 photos each."""
    centers = rng.normal(size=(10, 1, 256))
    photos = (centers + spread * rng.normal(size=(10, 30, 256))).reshape(-1, 256)
    return photos.astype(np.float32)


def test_neighbors_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    features = clusters(np.random.default_rng(0), 0.7)
    monkeypatch.setattr(feature_duplicates, "_BLOCK_NUMBERS", 300 * 7)  # seven rows at once
    found, cosines = nearest_neighbors(features, 5)
    centered = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    every = centered @ centered.T
    lengths = np.sqrt(np.diag(every))
    every /= lengths[:, None] * lengths
    np.fill_diagonal(every, -2)
    expected = np.argsort(-every, axis=1)[:, :5]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(cosines, np.take_along_axis(every, expected, 1), atol=1e-5)


@pytest.mark.parametrize("spread", [0.2, 0.7, 2.0])
def test_copies_are_found_among_alike_and_among_unlike_photos(spread: float) -> None:
    rng = np.random.default_rng(1)
    features = clusters(rng, spread)
    chosen = rng.choice(len(features), 20, replace=False)
    copies = features[chosen] + 0.2 * spread * rng.normal(size=(20, 256)).astype(np.float32)
    found = find_pairs(np.concatenate([features, copies]))
    planted = {(int(one), 300 + number) for number, one in enumerate(chosen)}
    pairs = {(int(one), int(other)) for one, other in found.pairs}
    assert planted <= pairs
    # Photos of one kind are no near-duplicates, however near they are.
    assert len(pairs - planted) <= 1
    assert found.nearest_apart is not None
    assert tuple(sorted(found.nearest_apart)) not in pairs


def test_a_pair_is_mutual() -> None:
    # The second has six nearer neighbors than the first, whose nearest it is.
    second = np.zeros(24)
    second[0] = 1
    others = np.tile(second, (6, 1)) + 0.01 * np.eye(24)[2:8]
    first = second + 0.3 * np.eye(24)[1]
    rest = 2 * np.eye(24)[9:]
    features = np.concatenate([[first, second], others, rest]).astype(np.float32)
    rule = FeatureRule(max_ratio=1.0, surroundings=14)
    assert (0, 1) not in {tuple(pair) for pair in find_pairs(features, rule).pairs.tolist()}
    wider = FeatureRule(max_ratio=1.0, surroundings=14, mutual=8)
    assert (0, 1) in {tuple(pair) for pair in find_pairs(features, wider).pairs.tolist()}


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_photos_are_no_error(count: int) -> None:
    found = find_pairs(np.eye(count, 8, dtype=np.float32))
    assert found.pairs.shape[1:] == (2,)


def test_the_command_lists_pairs_with_a_proof_and_moves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for number in range(14):
        file = root / ("ant" if number < 12 else "bee") / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(file)
    (root / "ant" / "copy.png").write_bytes((root / "ant" / "00.png").read_bytes())
    features = np.eye(14, 16, dtype=np.float32)
    features[13] = features[3] + 0.1

    def fake(root: Path, photos: Sequence[Photo], **_: object) -> Embedding:
        chosen = tuple(photos)
        rows = [min(number, 13) for number in range(len(chosen))]
        return Embedding(photos=chosen, features=features[rows], positions=np.array(rows))

    monkeypatch.setattr(feature_duplicates, "embed", fake)
    command = ["duplicates", str(root), "--features", "--quarantine", str(tmp_path / "q"), "--yes"]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [pair["paths"] for pair in document["feature_pairs"]] == [["ant/03.png", "bee/13.png"]]
    assert document["feature_pairs"][0]["labels"] == [["ant"], ["bee"]]
    assert document["feature_proof"].startswith(
        "By features: 1 further pair, 1 of different labels. The most similar pair left apart: "
    )
    assert len(document["moved"]) == 1  # the copy, which the hashes find
    shown = CliRunner().invoke(app, ["duplicates", str(root), "--features"])
    assert "ant/03.png" in shown.stdout
    assert "By features: 1 further pair" in shown.stdout
