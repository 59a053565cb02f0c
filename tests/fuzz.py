"""Feeds hostile input to every parser and reports what is neither a result nor a FinetuneError.

    scripts/fuzz                     each target for 60 seconds
    scripts/fuzz run photo           these two
    scripts/fuzz run --examples 300  a number of examples in place of a time
    scripts/fuzz run --seed 17 --examples 1

Inputs are valid files made by code and then damaged: bits flipped, parts cut, repeated, exchanged
or replaced by values that parsers get wrong. Example N of a target is always the same input.
Connections are forbidden, and each example has limits of time and memory.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gzip
import io
import json
import logging
import pickle
import random
import resource
import shutil
import socket
import sqlite3
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SECONDS = 2.0
GROWTH_BYTES = 1_000_000_000

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    10**9,
    10**40,
    -1.5,
    1e-300,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\x1b[2J\x07",
    "\u202egpj",
    "nul\0nul",
    "../../etc/passwd",
    "http://127.0.0.1:9/x",
    "a" * 100_000,
    [],
    [1],
    {},
    {"a": 1},
    ["a", "a"],
    [None],
    [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]],
)
"""Values of another type, out of range, or not to be printed."""

TOKENS = (
    b"\0",
    b"\xff" * 8,
    b"\x1b[31m",
    b"NaN",
    b"-1",
    b"1e999",
    b'"',
    b",",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"\r\n",
    b"=1+1",
    b"\xed\xa0\x80",
    b"../",
    b"9" * 5000,
)
"""Bytes that parsers get wrong."""


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Returns bytes with one to four kinds of damage."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((1, 2, 4, 16, 64, 1024))
        match rng.randrange(7):
            case 0:
                for _ in range(rng.choice((1, 8, 64))):
                    if data:
                        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:]
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = rng.choice(TOKENS)
            case 4:
                data[at:at] = data[at : at + length] * rng.choice((1, 50))
            case 5:
                data[at : at + length] = rng.randbytes(length)
            case 6:
                data[at : at + 4] = rng.choice(
                    (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff")
                )
    return bytes(data)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every value in a JSON document."""
    yield place
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value[:3])
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield from places(item, (*place, key))


def mutated_json(rng: random.Random, value: Any) -> Any:
    """Returns a document with one value removed, replaced, or added."""
    result = copy.deepcopy(value)
    place = rng.choice(list(places(result)))
    hostile = copy.deepcopy(rng.choice(HOSTILE))
    if not place:
        return hostile
    parent = result
    for key in place[:-1]:
        parent = parent[key]
    match rng.randrange(4):
        case 0:
            del parent[place[-1]]
        case 1 if isinstance(parent[place[-1]], int | float):
            parent[place[-1]] *= rng.choice((-1, 0, 1e9, 1e-9))
        case 2 if isinstance(parent, dict):
            parent[rng.choice(("pretrained", "pretrained_cfg_overlay", "url", "x\x1b"))] = hostile
        case _:
            parent[place[-1]] = hostile
    return result


RUN_FLAGS = {
    "model": "simple_cnn",
    "weights": "none",
    "mode": "full",
    "epochs": 1,
    "device": "cpu",
}


class Fuzzer:
    """Base files, made once in a folder, and the targets that damage copies of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self._run: Path | None = None
        self._client: Any = None

    def targets(self) -> dict[str, Callable[[random.Random], None]]:
        """Returns the targets by name."""
        return {
            name.removeprefix("fuzz_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("fuzz_")
        }

    def fresh(self) -> Path:
        """Returns an empty folder."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        return self.work

    def photo(self, number: int = 0, form: str = "PNG", **options: Any) -> bytes:
        from PIL import Image, ImageDraw

        image = Image.new("RGB", (64, 48), (90, 120, 60 + number % 90))
        ImageDraw.Draw(image).ellipse(
            (8 + number % 20, 8, 30 + number % 20, 30), (200, number * 37 % 255, 40)
        )
        file = io.BytesIO()
        image.save(file, form, **options)
        return file.getvalue()

    @property
    def run(self) -> Path:
        """Finished run of two labels on a tiny network."""
        if self._run is None:
            from finetune.config_io import resolve
            from finetune.training.train import train

            photos = self.folder / "photos"
            for label in ("ant", "bee"):
                (photos / label).mkdir(parents=True)
                for number in range(8):
                    (photos / label / f"{number}.png").write_bytes(
                        self.photo(number * 3 + len(label) + ord(label[0]))
                    )
            self._run = train(
                photos, resolve({}, RUN_FLAGS), run="base", runs=self.folder / "runs"
            ).run.path
        return self._run

    def fuzz_run(self, rng: random.Random) -> None:
        """One damaged file of a run: predicted, reported on, carried on from."""
        from finetune.config_io import resolve
        from finetune.prediction.predictor import Predictor
        from finetune.reporting.report import write_report
        from finetune.runs.folder import open_run
        from finetune.runs.follow import read_progress
        from finetune.runs.model_card import model_card
        from finetune.training.warm_start import inherit, open_parent

        path = self.fresh() / "run"
        shutil.copytree(self.run, path)
        file = rng.choice(
            sorted(item for item in path.iterdir() if item.suffix != ".md" and item.is_file())
        )
        if file.suffix == ".json" and rng.random() < 0.8:
            content = json.dumps(mutated_json(rng, json.loads(file.read_text())))
            file.write_text(content, encoding="utf-8", errors="surrogatepass")
        else:
            file.write_bytes(damaged(rng, file.read_bytes()))

        def predict() -> None:
            prediction = Predictor.load(path)(self.photo(5))
            total = sum(item.probability for item in prediction.ranked)
            assert abs(total - 1) < 1e-3, f"probabilities add up to {total}"

        for use in (
            predict,
            lambda: model_card(open_run(path)),
            lambda: read_progress(open_run(path)),
            lambda: write_report(path),
            lambda: inherit(resolve({}, {}), open_parent(open_run(path))),
        ):
            allowed(use)

    def fuzz_config(self, rng: random.Random) -> None:
        """TOML and JSON settings."""
        from finetune.cli.train import settings_of

        base = {
            "training": {"epochs": 3, "lr": 0.1},
            "model": {"model": "resnet18"},
            "model_args": {"drop_rate": 0.1},
        }
        file = self.fresh() / rng.choice(("config.toml", "config.json"))
        if file.suffix == ".json":
            file.write_text(json.dumps({"settings": mutated_json(rng, base)}))
        else:
            text = b'[training]\nepochs = 3\nlr = 0.1\n[model]\nmodel = "resnet18"\n'
            text += b"[recipe]\nzoom = 1.5\n"
            file.write_bytes(damaged(rng, text))
        allowed(lambda: settings_of(file, {}, None))

    def fuzz_catalog(self, rng: random.Random) -> None:
        """Flipped and cut bytes of a catalog, then its repair."""
        from finetune.photos.catalog.catalog import open_catalog
        from finetune.photos.catalog.repair import repair
        from finetune.photos.crops import Crop

        base = self.folder / "catalog.sqlite3"
        if not base.is_file():
            with open_catalog(self.folder, base) as catalog:
                for number in range(300):
                    catalog.set_labels([f"{number:032x}"], [f"label {number % 9}"])
                catalog.propose_crops(
                    {f"{n:032x}": Crop(center_x=0.5, center_y=0.5, side=0.5) for n in range(300)}
                )
        file = self.fresh() / "catalog.sqlite3"
        content = bytearray(base.read_bytes())
        for _ in range(rng.choice((1, 5, 50))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content if rng.random() < 0.8 else damaged(rng, bytes(content)))

        def read() -> None:
            with open_catalog(self.work, file) as catalog:
                catalog.annotations()
                catalog.files()
                catalog.collection(self.work)
                catalog.history()

        allowed(read)
        allowed(lambda: repair(file))
        if file.is_file():
            with contextlib.suppress(sqlite3.DatabaseError):
                allowed(read)

    def fuzz_table(self, rng: random.Random) -> None:
        """CSV, TSV and JSON lines with labels; split.csv; predictions.csv."""
        from finetune.evaluation.predictions import read_predictions
        from finetune.photos.datasets.label_table import read_label_table
        from finetune.photos.split.split import read_split

        bases = {
            "labels.csv": b'path,label\na.jpg,ant\nb.jpg,bee\n"c,1.jpg",ant|bee\n',
            "labels.tsv": b"file\tlabel\na.jpg\tant\n",
            "labels.jsonl": b'{"path": "a.jpg", "label": "ant"}\n{"path": "b", "label": "bee"}\n',
            "labels.txt": b"a.jpg 0\nb.jpg 1\n",
            "split.csv": (self.run / "split.csv").read_bytes(),
            "predictions.csv": (self.run / "predictions.csv").read_bytes(),
        }
        name = rng.choice(sorted(bases))
        file = self.fresh() / name
        file.write_bytes(damaged(rng, bases[name]))
        read = {"split.csv": read_split, "predictions.csv": read_predictions}.get(
            name, read_label_table
        )
        allowed(lambda: read(file))

    def fuzz_dataset(self, rng: random.Random) -> None:
        """idx files, pickled batches, zip and tar archives."""
        from finetune.photos.datasets.archives import read_image_set
        from finetune.photos.datasets.image_sets import write_image_set

        folder = self.fresh()
        match rng.randrange(4):
            case 0:
                images = (
                    b"\0\0\x08\x03"
                    + (5).to_bytes(4, "big")
                    + (4).to_bytes(4, "big") * 2
                    + bytes(80)
                )
                labels = b"\0\0\x08\x01" + (5).to_bytes(4, "big") + bytes(range(5))
                for part in ("train", "t10k"):
                    for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
                        data = damaged(rng, content) if rng.random() < 0.5 else content
                        (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(data))
                source = folder
            case 1:
                batch = {b"data": bytes(3072), b"labels": [0], b"filenames": [b"x"]}
                for name in (
                    *(f"data_batch_{n}" for n in range(1, 6)),
                    "test_batch",
                    "batches.meta",
                ):
                    (folder / name).write_bytes(damaged(rng, pickle.dumps(batch, protocol=2)))
                source = folder
            case 2:
                source = folder / "photos.zip"
                with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
                    for number in range(4):
                        archive.writestr(f"a/b{number % 2}/{number}.png", self.photo(number))
                source.write_bytes(damaged(rng, source.read_bytes()))
            case _:
                source = folder / "photos.tar.gz"
                with tarfile.open(source, "w:gz") as tar:
                    for number in range(4):
                        member = tarfile.TarInfo(
                            rng.choice((f"a/{number}.png", f"../{number}.png", "/etc/x.png"))
                        )
                        member.size = len(self.photo(number))
                        tar.addfile(member, io.BytesIO(self.photo(number)))
                raw = gzip.decompress(source.read_bytes())
                source.write_bytes(gzip.compress(damaged(rng, raw)))

        def read() -> None:
            found = read_image_set(source)
            if found is not None:
                write_image_set(found, self.work / "new")

        allowed(read)

    def fuzz_pipeline(self, rng: random.Random) -> None:
        """Augmentation pipelines in YAML and JSON."""
        from finetune.augmentation.pipelines import read_pipeline

        text = (
            b"transform:\n  __class_fullname__: Compose\n  p: 1.0\n  transforms:\n"
            b"  - __class_fullname__: CenterCrop\n    height: 32\n    width: 32\n    p: 1.0\n"
            b"  - __class_fullname__: HorizontalFlip\n    p: 0.5\n"
        )
        file = self.fresh() / "pipeline.yaml"
        file.write_bytes(damaged(rng, text))
        allowed(lambda: read_pipeline(file))

    def fuzz_photo(self, rng: random.Random) -> None:
        """Photos of all formats, with EXIF; only DecodeError is allowed."""
        from PIL import Image

        from finetune.photos.decode.decoder import read_photo

        exif = Image.Exif()
        exif[0x0112], exif[0x010F], exif[0x0132] = 6, "Maker", "2024:01:02 03:04:05"
        form = rng.choice(("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000"))
        options: dict[str, Any] = {"exif": exif} if form in ("JPEG", "PNG", "TIFF", "WEBP") else {}
        if form == "JPEG" and rng.random() < 0.5:
            options["progressive"] = True
        content = damaged(rng, self.photo(rng.randrange(9), form, **options))
        allowed(lambda: read_photo(content, min_side_pixels=rng.choice((None, 16))))

    def fuzz_cache(self, rng: random.Random) -> None:
        """Damaged caches of records: a record is as it was put, or is missing."""
        import numpy as np

        from finetune.data.record_store import RecordStore, record_key

        folder = self.fresh()
        records = np.arange(40 * 12, dtype=np.float32).reshape(40, 12)
        keys = [record_key(n) for n in range(40)]

        def opened() -> RecordStore:
            return RecordStore(folder, shape=(12,), dtype=np.float32, limit_bytes=float("inf"))

        with opened() as store:
            for key, record in zip(keys, records, strict=True):
                store.put(key, record)
        file = folder / rng.choice(("records.bin", "index.bin"))
        file.write_bytes(damaged(rng, file.read_bytes()))
        out = np.empty((1, 12), np.float32)
        with opened() as store:
            for key, record in zip(keys, records, strict=True):
                assert not store.read_into(key, out) or np.array_equal(out[0], record), (
                    "a wrong record"
                )
                store.put(key, record)
        with opened() as store:
            assert np.array_equal(store.read(keys), records), "not repaired"

    def fuzz_model(self, rng: random.Random) -> None:
        """A training on damaged caches gives the same bytes as on intact ones."""
        from finetune.config_io import resolve
        from finetune.training.train import train

        expected = (self.run / "model.safetensors").read_bytes()
        photos = self.fresh() / "photos"
        shutil.copytree(self.folder / "photos", photos)
        stores = [*photos.rglob("records.bin"), *photos.rglob("index.bin")]
        assert stores, "no cache"
        for file in rng.sample(stores, rng.randint(1, len(stores))):
            match rng.randrange(4):
                case 0:
                    file.unlink()
                case 1:
                    content = file.read_bytes()
                    file.write_bytes(
                        rng.randbytes(len(content) // 2) + content[len(content) // 2 :]
                    )
                case _:
                    file.write_bytes(damaged(rng, file.read_bytes()))
        found = train(photos, resolve({}, RUN_FLAGS), runs=self.work / "runs").run
        assert found.model_file.read_bytes() == expected, "another model"

    def fuzz_upload(self, rng: random.Random) -> None:
        """Bodies of requests to the prediction server."""
        from starlette.testclient import TestClient

        from finetune.prediction.predictor import Predictor
        from finetune.web.security import policy_for
        from finetune.web.serve.app import serve_app

        if self._client is None:
            app = serve_app(Predictor.load(self.run), policy_for("127.0.0.1", 80, None))
            self._client = TestClient(app, base_url="http://127.0.0.1")
            self._client.__enter__()
        form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x.png"\r\n\r\n'
        form += self.photo() + b"\r\n--b--\r\n"
        kind = rng.choice(
            ("multipart/form-data; boundary=b", "image/png", "multipart/form-data", "x\x1b")
        )
        path = rng.choice(("/v1/predict", "/v1/predict?top=1", "/v1/predict?top=%00", "/v1/model"))
        answer = self._client.post(path, content=damaged(rng, form), headers={"content-type": kind})
        assert answer.status_code < 500 or answer.status_code == 503, answer.text

    def fuzz_disk(self, rng: random.Random) -> None:
        """A disk that is full after some bytes of a file: one line, and all earlier is intact."""
        from finetune.config_io import resolve
        from finetune.errors import FinetuneError
        from finetune.photos.catalog.catalog import open_catalog
        from finetune.prediction.export.export import ExportOptions, export
        from finetune.prediction.predictor import Predictor
        from finetune.prediction.sort_into import Sorter
        from finetune.prediction.table import PredictionTable
        from finetune.reporting.report import write_report
        from finetune.runs.folder import open_run
        from finetune.training.train import train

        folder = self.fresh()
        photos = folder / "photos"
        shutil.copytree(self.run.parent.parent / "photos", photos)
        shutil.copytree(self.run, folder / "run")
        predictor = Predictor.load(folder / "run")
        names = sorted((photos / "ant").glob("*.png"))
        file = folder / "catalog.sqlite3"
        with open_catalog(folder, file) as catalog:
            catalog.set_labels(["00"], ["before"])

        def label() -> None:
            with open_catalog(folder, file) as catalog:
                for number in range(40):
                    catalog.set_labels([f"{number:02x}"], ["heron" * 9])

        def table() -> None:
            with PredictionTable(folder / "table.csv", run="base", top=2) as opened:
                for prediction in predictor.predict_stream(list(opened.missing(names))):
                    opened.add(prediction)

        def sort() -> None:
            sorter = Sorter(folder / "sorted")
            for prediction in predictor.predict_stream(names):
                sorter.put(prediction)

        uses: dict[str, Callable[[], object]] = {
            "train": lambda: train(
                photos, resolve({}, RUN_FLAGS | {"epochs": 2}), runs=folder / "runs"
            ),
            "label": label,
            "table": table,
            "sort": sort,
            "report": lambda: write_report(folder / "run"),
            "export": lambda: export(
                open_run(folder / "run"),
                ExportOptions(format="timm"),
                out=folder / "export",
                photos=names,
            ),
        }
        name = rng.choice(sorted(uses))
        before = {path: path.read_bytes() for path in (folder / "run").iterdir() if path.is_file()}
        limit = int(10 ** rng.uniform(0, 6))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            uses[name]()
        except FinetuneError as error:
            assert "\n" not in str(error), str(error)  # noqa: PT017
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        for path, content in before.items():
            if path.name != "report.html":
                assert path.read_bytes() == content, f"{path.name} has changed"
        with open_catalog(folder, file) as catalog:
            assert catalog.annotations(["00"])["00"].labels in (("before",), ("heron" * 9,))
        uses[name]()
        parts = [path for path in folder.rglob("*.part") if "runs" not in path.parts]
        assert not parts, f"left behind: {parts}"

    def close(self) -> None:
        """Stops the server of the uploads."""
        if self._client is not None:
            self._client.__exit__()


def allowed(use: Callable[[], object]) -> None:
    """Runs a parser; a FinetuneError is a right answer."""
    from finetune.errors import FinetuneError

    try:
        use()
    except FinetuneError as error:
        text = str(error)
        assert "\n" not in text, f"an error of several lines: {text!r}"
        assert len(text) < 8000, f"an error of {len(text)} characters"


@contextlib.contextmanager
def no_connections() -> Iterator[None]:
    """Raises where anything connects to an address."""

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            raise AssertionError(f"a connection to {address}")
        return before(self, address)

    before = socket.socket.connect
    socket.socket.connect = refuse  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        socket.socket.connect = before  # type: ignore[method-assign]


def peak_bytes() -> int:
    """Returns the peak of this process's resident memory."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def example(fuzzer: Fuzzer, target: str, number: int, *, seconds: float = SECONDS) -> str | None:
    """Runs one example; returns what was wrong, or None."""
    rng = random.Random(f"{target} {number}")
    memory = peak_bytes()
    started = time.process_time()
    try:
        with no_connections(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fuzzer.targets()[target](rng)
    except Exception:  # noqa: BLE001 - any other exception is a finding
        return traceback.format_exc()
    taken = time.process_time() - started
    grown = peak_bytes() - memory
    if taken > seconds:
        return f"took {taken:.1f} s\n"
    return f"took {grown / 1e6:.0f} MB\n" if grown > GROWTH_BYTES else None


def main() -> int:
    """Runs the targets of the command line."""
    logging.disable()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    with tempfile.TemporaryDirectory(prefix="finetune-fuzz-") as folder:
        fuzzer = Fuzzer(Path(folder))
        parser.add_argument("targets", nargs="*", choices=[*fuzzer.targets(), []], metavar="TARGET")
        parser.add_argument("--seconds", type=float, default=60.0)
        parser.add_argument("--examples", type=int)
        parser.add_argument("--seed", type=int, default=0, help="Number of the first example.")
        options = parser.parse_args()
        findings = 0
        for target in options.targets or fuzzer.targets():
            if target in ("run", "table", "upload", "disk", "model"):
                _ = fuzzer.run
            example(fuzzer, target, -1, seconds=60.0)  # imports
            started, number, wrong = time.monotonic(), options.seed, 0
            while (
                number - options.seed < options.examples
                if options.examples
                else time.monotonic() - started < options.seconds
            ):
                if (found := example(fuzzer, target, number)) is not None:
                    wrong += 1
                    sys.stdout.write(f"--- {target} --seed {number}\n{found}\n")
                number += 1
            count = number - options.seed
            sys.stdout.write(f"{target}: {count:,} examples, {wrong} findings\n")
            sys.stdout.flush()
            findings += wrong
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
