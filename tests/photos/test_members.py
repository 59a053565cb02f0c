"""Photos in WebDataset shards and Parquet files."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from finetune.cli import app
from finetune.errors import CollectionError
from finetune.photos.crops import load_image
from finetune.photos.decode.decoder import decode_photo
from finetune.photos.members import folders_of, photos_in, read_member
from finetune.photos.scan import find_photos, scan


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A folder of photos of two labels."""
    rng = np.random.default_rng(0)
    for number in range(24):
        file = tmp_path / "plain" / ("disc", "bar")[number % 2] / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        coarse[..., number % 2] //= 4
        Image.fromarray(coarse).resize((72, 60), Image.Resampling.BICUBIC).save(file)
    return tmp_path / "plain"


def by_folders(plain: Path, root: Path) -> Path:
    """The photos in two shards, with folders of labels."""
    files = {file.relative_to(plain).as_posix(): file for file in sorted(plain.rglob("*.png"))}
    for shard in (0, 1):
        chosen = {name: file.read_bytes() for name, file in list(files.items())[shard::2]}
        write_tar(root / f"{shard:06}.tar", chosen)
    return root


def by_class_files(plain: Path, root: Path) -> Path:
    """As WebDataset writes them: a key, with the photo and its label."""
    files: dict[str, bytes] = {}
    for number, file in enumerate(sorted(plain.rglob("*.png"))):
        files[f"{number:06}.png"] = file.read_bytes()
        if number % 2:
            files[f"{number:06}.cls"] = file.parent.name.encode() + b"\n"
        else:
            files[f"{number:06}.json"] = json.dumps({"label_name": file.parent.name}).encode()
            files[f"{number:06}.cls"] = b"7"
    write_tar(root / "shard-000000.tar", files)
    return root


@pytest.mark.parametrize("layout", [by_folders, by_class_files])
def test_a_collection_of_shards_is_that_of_the_files(
    plain: Path, tmp_path: Path, layout: Callable[[Path, Path], Path]
) -> None:
    root = layout(plain, tmp_path / "shards")
    expected = {photo.digest: photo for photo in scan(plain).photos}
    collection = scan(root)
    assert not collection.problems
    assert {photo.digest for photo in collection.photos} == set(expected)
    for photo in collection.photos:
        one = expected[photo.digest]
        assert (photo.labels, photo.packed_hashes) == (one.labels, one.packed_hashes)
        assert (photo.width, photo.height) == (one.width, one.height)
        path = collection.path_of(photo)
        np.testing.assert_array_equal(
            load_image(path, size=40, fit="crop"), load_image(plain / one.path, size=40, fit="crop")
        )
    assert scan(root).photos == collection.photos
    # Nothing was unpacked.
    assert {file.suffix for file in root.rglob("*") if file.is_file()} <= {".tar", ".sqlite3"}


def test_parts_are_named_by_shards(plain: Path, tmp_path: Path) -> None:
    root = tmp_path / "shards"
    for part, numbers in {"train": range(16), "val": range(16, 24)}.items():
        files = sorted(plain.rglob("*.png"), key=lambda file: file.name)
        chosen = {files[n].relative_to(plain).as_posix(): files[n].read_bytes() for n in numbers}
        write_tar(root / f"{part}-000.tar", chosen)
    photos = scan(root).photos
    assert sorted({photo.part or "" for photo in photos}) == ["train", "validation"]
    assert {label for photo in photos for label in photo.labels} == {"disc", "bar"}
    (root / "val-000.tar").unlink()
    photos = scan(root).photos
    assert {photo.part for photo in photos} == {None}
    assert {label for photo in photos for label in photo.labels} == {"disc", "bar"}
    assert folders_of("a/b.jpg") == ["a"]


def test_a_training_and_its_predictions_read_shards(
    plain: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = by_folders(plain, tmp_path / "shards")
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.stdout

    model = ["--model", "test_resnet", "--weights", str(tiny_weights), "--size", "48"]
    run("train", str(root), *model, "--mode", "head", "--device", "cpu", "--name", "one")
    answers = json.loads(run("predict", str(root), "--run", "one", "--json"))
    assert len(answers) == 24
    of_files = json.loads(run("predict", str(plain), "--run", "one", "--json"))
    named = {Path(row["photo"]).name: row["ranked"] for row in of_files}
    for row in answers:
        for one, other in zip(row["ranked"], named[Path(row["photo"]).name], strict=True):
            assert one["label"] == other["label"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)
    split = json.loads(run("split", str(root), "--json"))
    assert split


def test_shards_beside_photos_are_left_alone(plain: Path) -> None:
    before = [file.path for file in find_photos(plain).files]
    write_tar(plain / "backup.tar", {"disc/00.png": (plain / "disc" / "00.png").read_bytes()})
    assert [file.path for file in find_photos(plain).files] == before


def test_names_that_lead_elsewhere_are_no_photos(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 30)).save(buffer, "PNG")
    photo = buffer.getvalue()
    names = ["../out.png", "/abs.png", "a/../b.png", "line\nbreak.png", "ok/1.png", "ok/2.txt"]
    shard = write_tar(tmp_path / "0.tar", dict.fromkeys(names, photo) | {"ok/1.cls": b"../x"})
    assert list(photos_in(shard)) == ["ok/1.png"]
    assert read_member(tmp_path / "0.tar" / "ok" / "1.png") == photo
    assert read_member(tmp_path / "nothing" / "1.png") is None
    with pytest.raises(FileNotFoundError):
        read_member(tmp_path / "0.tar" / "ok" / "3.png")
    assert decode_photo(tmp_path / "0.tar" / "ok" / "1.png").shape == (30, 30, 3)


def test_a_damaged_or_compressed_shard_is_a_problem(plain: Path, tmp_path: Path) -> None:
    root = by_folders(plain, tmp_path / "shards")
    (root / "bad.tar").write_bytes(b"no tar file" * 100)
    with tarfile.open(root / "packed.tar", "w:gz") as archive:
        archive.add(plain / "disc" / "00.png", "disc/00.png")
    collection = scan(root)
    assert len(collection.photos) == 24
    assert [problem.path for problem in collection.problems] == ["bad.tar", "packed.tar"]
    for problem in collection.problems:
        assert "cannot be read as a tar file that is not compressed" in problem.reason


def test_a_shard_written_anew_is_read_again(plain: Path, tmp_path: Path) -> None:
    root = by_folders(plain, tmp_path / "shards")
    assert len(scan(root).photos) == 24
    more = (plain / "disc" / "00.png").read_bytes() + b"\0"
    write_tar(root / "000000.tar", {"disc/new.png": more})
    photos = scan(root).photos
    assert len(photos) == 13
    assert "000000.tar/disc/new.png" in {photo.path for photo in photos}


def test_parquet_as_hugging_face_writes_it(plain: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    files = sorted(plain.rglob("*.png"))
    names = ["bar", "disc"]
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    labels = [names.index(file.parent.name) for file in files]
    features = {"features": {"label": {"names": names, "_type": "ClassLabel"}}}
    table = pyarrow.table({"image": images, "label": labels}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": features})}
    )
    root = tmp_path / "shards"
    root.mkdir()
    parquet.write_table(table, root / "train-00000-of-00001.parquet", row_group_size=7)
    expected = {photo.digest: photo.labels for photo in scan(plain).photos}
    assert {photo.digest: photo.labels for photo in scan(root).photos} == expected
    parquet.write_table(pyarrow.table({"text": ["a"]}), root / "other.parquet")
    shutil.rmtree(root / ".finetune")
    with pytest.raises(CollectionError, match="has a column 'image' with their bytes"):
        photos_in(root / "other.parquet")
    assert [problem.path for problem in scan(root).problems] == ["other.parquet"]
