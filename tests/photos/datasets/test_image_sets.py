"""CIFAR-10 and MNIST as downloaded, and damaged or hostile files of these formats."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from finetune.errors import CollectionError
from finetune.photos.datasets import archives
from finetune.photos.datasets.archives import read_image_set
from finetune.photos.datasets.cifar import LABELS, load_restricted
from finetune.photos.datasets.image_sets import ArchivedFolders, ImageSet, write_image_set
from finetune.photos.scan import scan

BATCHES = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
Rows = tuple[NDArray[np.uint8], list[int]]


@pytest.fixture
def rows() -> dict[str, Rows]:
    """Four images a batch, as rows of 3,072 bytes with their labels."""
    rng = np.random.default_rng(7)
    return {
        name: (rng.integers(0, 256, (4, 3072), dtype=np.uint8), rng.integers(0, 10, 4).tolist())
        for name in BATCHES
    }


def python_2_batch(data: NDArray[np.uint8], labels: list[int]) -> bytes:
    """A pickle with the same opcodes as the original, which Python 2 and its NumPy wrote."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value  # SHORT_BINSTRING

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t"
        + text(b"b")
        + b"tR(K\x01(M"
        + struct.pack("<H", len(data))
        + b"M\x00\x0ctcnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", data.size)
        + data.tobytes()
        + b"tb"
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


@pytest.fixture
def files(rows: dict[str, Rows]) -> dict[str, bytes]:
    """The Python version's files, each pickled in another way."""
    contents = {}
    for number, (name, (data, labels)) in enumerate(rows.items()):
        batch = {"data": data, "labels": labels, "filenames": ["x.png"] * 4}
        contents[name] = (
            python_2_batch(data, labels)
            if number < 2
            else pickle.dumps(batch, protocol=number % 4 + 2)
        )
    contents["batches.meta"] = pickle.dumps({"label_names": list(LABELS)}, protocol=2)
    return contents


def in_folder(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def in_tar(path: Path, contents: dict[str, bytes], inside: str = "cifar-10-batches-py/") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(inside + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def binary(rows: dict[str, Rows]) -> dict[str, bytes]:
    contents = {
        f"{name}.bin": b"".join(
            bytes([label]) + row.tobytes() for row, label in zip(data, labels, strict=True)
        )
        for name, (data, labels) in rows.items()
    }
    return contents | {"batches.meta.txt": ("\n".join(LABELS) + "\n\n").encode()}


def expected_image(row: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixel (y, x) of color c is byte 1024 c + 32 y + x."""
    image = np.empty((32, 32, 3), np.uint8)
    for y in range(32):
        for x in range(32):
            for c in range(3):
                image[y, x, c] = row[1024 * c + 32 * y + x]
    return image


@pytest.mark.parametrize("form", ["python folder", "above it", "python tar", "binary", "bin tar"])
def test_imported_cifar_has_the_exact_pixels(
    tmp_path: Path, rows: dict[str, Rows], files: dict[str, bytes], form: str
) -> None:
    match form:
        case "python folder":
            source = in_folder(tmp_path / "batches", files)
        case "above it":
            source = in_folder(tmp_path / "all" / "cifar-10-batches-py", files).parent
        case "python tar":
            source = in_tar(tmp_path / "cifar-10-python.tar.gz", files)
        case "binary":
            source = in_folder(tmp_path / "cifar-10-batches-bin", binary(rows))
        case _:
            source = in_tar(tmp_path / "cifar-10-binary.tar.gz", binary(rows), "bin/")
    found = read_image_set(source)
    assert found is not None
    assert len(found) == 24
    counts = write_image_set(found, tmp_path / "photos")
    assert sum(counts.values()) == 24
    collection = scan(tmp_path / "photos")
    assert [photo.part for photo in collection.photos].count("train") == 20
    for number, (name, (data, labels)) in enumerate(rows.items()):
        part, offset = ("test", 0) if name == "test_batch" else ("train", 4 * number)
        for index in range(4):
            label = LABELS[labels[index]]
            photo = tmp_path / "photos" / part / label / f"{offset + index:04d}.png"
            assert (np.asarray(Image.open(photo)) == expected_image(data[index])).all()


class Malice:
    """Pickles to a call of a function of our choice."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, files: dict[str, bytes]) -> None:
    victim = tmp_path / "victim"
    files["data_batch_3"] = pickle.dumps({"data": Malice(os.mkdir, str(victim)), "labels": []})
    source = in_tar(tmp_path / "cifar-10-python.tar.gz", files)
    with pytest.raises(CollectionError) as error:
        read_image_set(source)
    module = os.mkdir.__module__
    assert str(error.value) == (
        f"{source}: data_batch_3 cannot be read: it asks for {module}.mkdir, which is not "
        "part of an array; nothing was run."
    )
    assert not victim.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
        b"(S'true'\nios\nsystem\n.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
        b"c__builtin__\ngetattr\n.",
        b"\x80\x02cnumpy\nndarray\n}S'_make'\ncos\nsystem\nsb.",
    ],
)
def test_no_name_but_an_arrays_own_is_looked_up(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"it asks for .*; nothing was run"):
        load_restricted(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        b"\x80\x02}",
        b"\x80\x7f}.",
        # The memo at an absurd place: the unpickler in C would take 32 GB for it.
        b"\x80\x02}r\xff\xff\xff\x7fq",
        b"\x80\x02cnumpy\nndarray\n}b.",
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nN}\x86b.",
        b"\x80\x02Pabc\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02cnumpy\nndarray\n(tR(K\x01(I99999999999\ntNNT\x00\x00\x00\x00tb.",
    ],
)
def test_a_damaged_pickle_is_an_error_of_one_line(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(it is|it has|it changes)[^\n]*$"):
        load_restricted(content)


def test_every_byte_of_a_batch_may_be_wrong(rows: dict[str, Rows]) -> None:
    whole = python_2_batch(rows["data_batch_1"][0][:1, :3072], [3])
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(400):
        content = bytearray(whole)
        for place in rng.integers(0, 200, 2):
            content[place] = rng.integers(0, 256)
        try:
            load_restricted(bytes(content))
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)


def test_an_array_of_objects_is_refused() -> None:
    content = pickle.dumps({"data": np.array([1, 2], np.int64)}, protocol=2)
    with pytest.raises(ValueError, match="it has an array of 'i8', not of bytes"):
        load_restricted(content)


def test_an_array_in_fortran_order_is_read_back() -> None:
    array = np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    for protocol in range(2, 6):
        assert (load_restricted(pickle.dumps({"data": array}, protocol))["data"] == array).all()


def change(files: dict[str, bytes], name: str, **entries: Any) -> None:
    files[name] = pickle.dumps(entries, protocol=2)


IMAGES = np.zeros((4, 3072), np.uint8)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        (
            {"data": IMAGES, "labels": [0, 1, 2]},
            "is not a batch of CIFAR-10: it needs 'data' of N x ",
        ),
        ({"data": IMAGES[:, :3000], "labels": [0] * 4}, "is not a batch of CIFAR-10: it needs"),
        ({"data": IMAGES, "labels": "0123"}, "is not a batch of CIFAR-10: it needs 'data' of N x "),
        ({"data": IMAGES, "labels": [0, 1, 2, 10]}, "has the label 10; there are 10, from 0."),
        ({"data": IMAGES, "labels": [0, 1, 2, -1]}, "has the label -1; there are 10, from 0."),
        (
            {"fine_labels": [0]},
            "is not a batch of CIFAR-10: it needs 'data' of N x 3,072 bytes and N",
        ),
    ],
)
def test_a_batch_that_is_none_is_refused(
    tmp_path: Path, files: dict[str, bytes], entries: dict[str, Any], reason: str
) -> None:
    change(files, "data_batch_2", **entries)
    source = in_folder(tmp_path / "b", files)
    with pytest.raises(CollectionError) as error:
        read_image_set(source)
    assert str(error.value).startswith(f"{source}: data_batch_2 {reason}")


def test_a_missing_batch_is_named(tmp_path: Path, files: dict[str, bytes]) -> None:
    del files["data_batch_4"]
    source = in_folder(tmp_path / "b", files)
    with pytest.raises(CollectionError) as error:
        read_image_set(source)
    assert str(error.value) == (
        f"{source} has no data_batch_4, so CIFAR-10 is incomplete. Download it again."
    )


def test_a_binary_batch_of_half_a_record_is_refused(tmp_path: Path, rows: dict[str, Rows]) -> None:
    contents = binary(rows)
    contents["test_batch.bin"] = contents["test_batch.bin"][:-1]
    source = in_folder(tmp_path / "b", contents)
    with pytest.raises(CollectionError) as error:
        read_image_set(source)
    assert str(error.value) == (
        f"{source}: test_batch.bin has 12,291 bytes, not a multiple of the record size of "
        "3,073. Download it again."
    )


def test_label_names_cannot_lead_out_of_the_folder(tmp_path: Path, files: dict[str, bytes]) -> None:
    names = ["../../away", "/root", "a/b", "..", "con", *LABELS[5:]]
    change(files, "batches.meta", label_names=names)
    found = read_image_set(in_folder(tmp_path / "in" / "b", files))
    assert found is not None
    write_image_set(found, tmp_path / "in" / "photos")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    folders = {path.parent.name for path in (tmp_path / "in" / "photos").rglob("*.png")}
    assert folders <= {".._.._away".strip(" ."), "_root", "a_b", "unnamed", "_con", *LABELS[5:]}


@pytest.mark.parametrize(
    "names", [None, ["a"], "abcdefghij", [1, 2], ["a/b", "a_b", *LABELS[2:]], {"a": 1}]
)
def test_labels_that_are_none_are_refused(
    tmp_path: Path, files: dict[str, bytes], names: object
) -> None:
    change(files, "batches.meta", label_names=names)
    source = in_folder(tmp_path / "b", files)
    with pytest.raises(CollectionError) as error:
        read_image_set(source)
    assert str(error.value) == (f"{source}: batches.meta names no labels. Download it again.")


def test_a_broken_tar_is_an_error_of_one_line(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = in_tar(tmp_path / "cifar-10-python.tar.gz", files)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CollectionError) as error:
        read_image_set(path)
    assert str(error.value).startswith(f"{path} is not a tar file, or is damaged: ")
    assert "\n" not in str(error.value)


def idx(array: NDArray[np.uint8]) -> bytes:
    head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


@pytest.fixture
def digits(tmp_path: Path) -> tuple[Path, dict[str, NDArray[np.uint8]]]:
    rng = np.random.default_rng(1)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (12, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.arange(12, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (5, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(5, dtype=np.uint8),
    }
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, array in arrays.items():
        if name.startswith("train"):
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return folder, arrays


def test_imported_mnist_has_the_exact_pixels(
    tmp_path: Path, digits: tuple[Path, dict[str, NDArray[np.uint8]]]
) -> None:
    folder, arrays = digits
    found = read_image_set(folder)
    assert isinstance(found, ImageSet)
    assert found.labels == tuple("0123456789")
    write_image_set(found, tmp_path / "photos")
    for part, prefix in (("train", "train"), ("test", "t10k")):
        for number, image in enumerate(arrays[f"{prefix}-images-idx3-ubyte"]):
            label = arrays[f"{prefix}-labels-idx1-ubyte"][number]
            path = tmp_path / "photos" / part / str(label) / f"{number:04d}.png"
            with Image.open(path) as opened:
                assert opened.mode == "L"
                assert (np.asarray(opened) == image).all()
    assert len(scan(tmp_path / "photos")) == 17


def test_one_file_of_mnist_brings_its_partner(
    digits: tuple[Path, dict[str, NDArray[np.uint8]]],
) -> None:
    folder, _ = digits
    found = read_image_set(folder / "t10k-labels-idx1-ubyte")
    assert isinstance(found, ImageSet)
    assert [(part.part, len(part.targets)) for part in found.parts] == [("test", 5)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "begins with nothing, an idx file of its name with 00 00 08 03."),
        (b"\x89PNG" + bytes(20), "begins with 89 50 4e 47, an idx file of its name with"),
        (bytes((0, 0, 8, 1)) + bytes(12), "begins with 00 00 08 01, an idx file of its name"),
        (
            bytes((0, 0, 8, 3)) + struct.pack(">III", 5, 28, 28) + bytes(100),
            "declares 3,920 bytes of data but has 100. Download it again.",
        ),
        (
            bytes((0, 0, 8, 3)) + struct.pack(">III", 5, 28, 28) + bytes(3921),
            "declares 3,920 bytes of data but has more. Download it again.",
        ),
        (
            bytes((0, 0, 8, 3)) + struct.pack(">III", 2**32 - 1, 4000, 4000),
            "declares 4,294,967,295 x 4,000 x 4,000 bytes, too many or too few for a data set.",
        ),
        (
            bytes((0, 0, 8, 3)) + struct.pack(">III", 5, 0, 28),
            "declares 5 x 0 x 28 bytes, too many or too few for a data set.",
        ),
        (
            bytes((0, 0, 8, 3)) + struct.pack(">III", 4, 28, 28) + bytes(3136),
            "has 4 images and t10k-labels-idx1-ubyte 5 labels. Download them again.",
        ),
    ],
)
def test_a_wrong_idx_file_is_refused(
    digits: tuple[Path, dict[str, NDArray[np.uint8]]], content: bytes, reason: str
) -> None:
    path = digits[0] / "t10k-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(CollectionError) as error:
        read_image_set(digits[0])
    assert str(error.value).startswith(f"{path} {reason}")
    path.write_bytes(gzip.compress(content))
    with pytest.raises(CollectionError) as error:
        read_image_set(digits[0])
    assert str(error.value).startswith(f"{path} {reason}")


def test_labels_without_images_are_named(
    digits: tuple[Path, dict[str, NDArray[np.uint8]]],
) -> None:
    (digits[0] / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(CollectionError) as error:
        read_image_set(digits[0])
    assert str(error.value) == (
        f"{digits[0]} has t10k-labels-idx1-ubyte, but not its images. Download them too."
    )


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def folders_in_an_archive(path: Path, names: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in names.items():
                archive.writestr(name, content)
        return path
    return in_tar(path, names, "")


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_image_folders_in_an_archive_come_out_as_they_are(tmp_path: Path, ending: str) -> None:
    photos = {
        f"cifar10/{part}/{label}/{n}.png": png(10 * n + len(label))
        for part in ("train", "test")
        for label in ("cat", "horse")
        for n in range(2)
    }
    others = {
        "cifar10/readme.txt": b"hello",
        "../up.png": png(0),
        "cifar10/../../up.png": png(0),
        "cifar10/__MACOSX/._0.png": b"",
    }
    found = read_image_set(folders_in_an_archive(tmp_path / f"c{ending}", photos | others))
    assert found is not None
    assert write_image_set(found, tmp_path / "out" / "photos") == {"cat": 4, "horse": 4}
    written = {
        path.relative_to(tmp_path / "out" / "photos").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*.*")
        if path.is_file()
    }
    assert written == {name.removeprefix("cifar10/"): data for name, data in photos.items()}
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"c{ending}", "out"]


def zip_of_windows(path: Path, names: dict[str, bytes], encoding: str) -> Path:
    """A zip whose names have no mark of UTF-8, as Windows writes it in its own code page."""
    marks = {
        name: f"{number:03}".rjust(len(name.encode(encoding)), "#")
        for number, name in enumerate(names)
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in names.items():
            archive.writestr(zipfile.ZipInfo(marks[name]), content)
    data = path.read_bytes()
    for name, mark in marks.items():
        data = data.replace(mark.encode(), name.encode(encoding))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("encoding", ["cp932", "gb18030", "utf-8"])
def test_names_of_a_zip_are_read_in_the_encoding_given(tmp_path: Path, encoding: str) -> None:
    photos = {
        f"鳥/{label}/{n}.png": png(n + len(label)) for label in ("白", "黒鳥") for n in range(2)
    }
    path = zip_of_windows(tmp_path / "x.zip", photos, encoding)
    if encoding != "utf-8":
        with pytest.raises(
            CollectionError, match=r"file names are not written in UTF-8\. .*cp932: "
        ):
            read_image_set(path)
    found = read_image_set(path, encoding=encoding)
    assert found is not None
    assert dict(found.files()) == {name.removeprefix("鳥/"): data for name, data in photos.items()}


def test_names_of_a_tar_that_are_not_utf8_are_read_in_the_encoding_given(tmp_path: Path) -> None:
    with tarfile.open(
        tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT, encoding="cp932"
    ) as archive:
        for label in ("白", "黒"):
            member = tarfile.TarInfo(f"{label}/1.png")
            member.size = len(png(1))
            archive.addfile(member, io.BytesIO(png(1)))
    with pytest.raises(CollectionError, match="Name their encoding with --encoding"):
        read_image_set(tmp_path / "x.tar")
    found = read_image_set(tmp_path / "x.tar", encoding="cp932")
    assert found is not None
    assert [name for name, _ in found.files()] == ["白/1.png", "黒/1.png"]


def test_folders_and_files_of_an_archive_never_merge(tmp_path: Path) -> None:
    names = ["a:b/1.png", "a?b/1.png", "c/1.png", "c/1.PNG"]
    found = read_image_set(folders_in_an_archive(tmp_path / "x.zip", {n: png(3) for n in names}))
    assert isinstance(found, ArchivedFolders)
    assert [name for name, _ in found.files()] == [
        "a_b/1.png",
        "a_b (2)/1.png",
        "c/1.png",
        "c/1 (2).PNG",
    ]
    assert found.renamed == (
        ("a:b", "a_b"),
        ("a?b", "a_b (2)"),
        ("c/1.PNG", "c/1 (2).PNG"),
    )


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_an_archive_of_zeros_is_refused(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 1_000_000)
    path = tmp_path / f"zeros{ending}"
    zeros = {f"a/{number}.jpg": b"\xff\xd8\xff" + bytes(400_000) for number in range(4)}
    if ending == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in zeros.items():
                archive.writestr(name, content)
    else:
        folders_in_an_archive(path, zeros)
        content = path.read_bytes()
        path.write_bytes(content if content[:2] == b"\x1f\x8b" else gzip.compress(content))

    def unpack() -> None:
        found = read_image_set(path)
        assert found is not None
        write_image_set(found, tmp_path / "out")

    with pytest.raises(CollectionError, match="unpacks to more than 20 times its size"):
        unpack()
    assert not (tmp_path / "out").exists()


def test_files_of_an_archive_that_are_no_photos_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folders_in_an_archive(
        tmp_path / "x.zip", {"a/0.png": png(1), "a/1.png": bytes(99), "b/2.png": b""}
    )
    found = read_image_set(path)
    assert found is not None
    assert write_image_set(found, tmp_path / "out") == {"a": 1}
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: left out 2 files that are not photos by their content, a/1.png among them."
    ]


def test_an_archive_of_endless_folders_is_refused(tmp_path: Path) -> None:
    path = folders_in_an_archive(tmp_path / "x.zip", {"a/" * 40 + "0.png": png(1)})
    with pytest.raises(CollectionError, match="has folders in more than 32 others"):
        read_image_set(path)


def test_a_link_in_a_tar_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("a/1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        member = tarfile.TarInfo("b/2.png")
        member.size = len(png(1))
        archive.addfile(member, io.BytesIO(png(1)))
    found = read_image_set(path)
    assert found is not None
    assert [name for name, _ in found.files()] == ["b/2.png"]


def test_an_archive_without_photos_is_refused(tmp_path: Path) -> None:
    path = folders_in_an_archive(tmp_path / "x.zip", {"a/readme.txt": b""})
    with pytest.raises(CollectionError) as error:
        read_image_set(path)
    assert str(error.value) == f"{path} holds neither CIFAR-10 nor photos in folders."


def test_what_is_no_data_set_is_left_to_other_readers(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\n")
    (tmp_path / "cat").mkdir()
    assert read_image_set(tmp_path) is None
    assert read_image_set(tmp_path / "labels.csv") is None
    assert read_image_set(tmp_path / "not there") is None


def test_nothing_is_left_of_what_was_interrupted(
    tmp_path: Path, digits: tuple[Path, dict[str, NDArray[np.uint8]]]
) -> None:
    found = read_image_set(digits[0])
    assert found is not None

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_image_set(found, tmp_path / "photos", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["mnist"]


def test_a_folder_that_holds_something_is_left_alone(
    tmp_path: Path, digits: tuple[Path, dict[str, NDArray[np.uint8]]]
) -> None:
    found = read_image_set(digits[0])
    assert found is not None
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.png").write_bytes(png(0))
    with pytest.raises(CollectionError) as error:
        write_image_set(found, tmp_path / "photos")
    assert str(error.value) == (
        f"{tmp_path / 'photos'} exists already. Name a new folder for the photos: "
        "finetune import SOURCE NEW_FOLDER"
    )
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["mine.png"]


def test_an_entry_without_a_name_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/0.png", "b/1.png", "nameless"):
            archive.writestr(name, png(1))
        archive.filelist[-1].filename = ""
    found = read_image_set(path)
    assert found is not None
    assert write_image_set(found, tmp_path / "new") == {"a": 1, "b": 1}
