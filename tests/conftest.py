"""Photos, weights and folders that tests share; everything is drawn, nothing is downloaded."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from finetune.demo_data import DemoCollection
    from finetune.models.factory import LoadedModel
    from finetune.photos.collection import Photo
    from finetune.prediction.torch_engine import TorchEngine

# huggingface_hub reads it once, when it is imported; so no module of the program is imported above.
os.environ["HF_HUB_OFFLINE"] = "1"


# The same examples each time, and no stopwatch: a busy machine must not fail what is right.
hypothesis.settings.register_profile("finetune", deadline=None, derandomize=True)
hypothesis.settings.load_profile("finetune")

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

TINY_MODEL = "test_resnet"
TINY_SIZE = 48


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives a test in a browser, another program with a clock of its own, a second chance."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_configure() -> None:
    """Takes Ctrl-C as in a terminal; a shell lets what it runs in the background ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Spares the garbage collector all that was imported: with it, a collection takes 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "user-cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    # An export of each tiny network would take seconds.
    monkeypatch.setenv("FINETUNE_ENGINE", "torch")


@pytest.fixture(autouse=True)
def _fresh_output(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test meets the command line's output and the library's log as a new process does."""
    from finetune.cli.console import output

    logger = logging.getLogger("finetune")
    handlers, propagate = list(logger.handlers), logger.propagate
    logger.handlers[:], logger.propagate = [], True
    monkeypatch.setattr(output.stdout, "width", 160)
    monkeypatch.setattr(output, "json", False)
    monkeypatch.setattr(output, "quiet", False)
    yield
    logger.handlers[:], logger.propagate = handlers, propagate


def draw_photo(label: int, number: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    """A disc, a bar or a cross of its label's color somewhere on a noisy ground."""
    rng = np.random.default_rng((label, number))
    ground = rng.integers(60, 200, 3) + rng.integers(-20, 20, (size[1], size[0], 1))
    image = Image.fromarray(np.broadcast_to(ground, (size[1], size[0], 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    x, y = int(rng.integers(20, size[0] - 20)), int(rng.integers(18, size[1] - 18))
    color = [(220, 40, 30), (40, 200, 60), (50, 60, 230), (230, 220, 40)][label % 4]
    reach = int(rng.integers(8, 15))
    shapes = [
        lambda: draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=color),
        lambda: draw.rectangle((x - reach, y - 4, x + reach, y + 4), fill=color),
        lambda: draw.polygon(
            [(x, y - reach), (x + reach, y + reach), (x - reach, y + reach)], color
        ),
        lambda: draw.rectangle((x - 4, y - reach, x + 4, y + reach), fill=color),
    ]
    shapes[label % 4]()
    return image


class ShrunkScaler:
    """scikit-learn's StandardScaler with variances shrunk as those of heads, in float64.

    A variance v of N photos becomes (N v + 100 V) / (N + 100), with V the mean of all.
    """

    def fit(self, x: NDArray[Any], y: object = None) -> ShrunkScaler:
        """Takes mean and deviation of the rows."""
        values = np.asarray(x, np.float64)
        self.mean, variance = values.mean(0), values.var(0)
        shrunken = (len(values) * variance + 100 * variance.mean()) / (len(values) + 100)
        self.deviation = np.sqrt(shrunken)
        return self

    def transform(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Returns scaled rows."""
        found: NDArray[np.float64] = (np.asarray(x, np.float64) - self.mean) / self.deviation
        return found

    def fit_transform(self, x: NDArray[Any], y: object = None) -> NDArray[np.float64]:
        """Returns the rows themselves, scaled."""
        return self.fit(x).transform(x)


@pytest.fixture(scope="session")
def shrunk_scaler() -> type[ShrunkScaler]:
    """Class that scales features as the L2 penalty of a head sees them."""
    return ShrunkScaler


@pytest.fixture(scope="session")
def draw() -> Callable[..., Image.Image]:
    """The function ``draw(label, number)`` that draws one photo."""
    return draw_photo


@pytest.fixture
def make_photos(tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that draws ``photos/LABEL/NUMBER.jpg`` and returns the folder."""

    def make(counts: dict[str, int], folder: str = "photos") -> Path:
        root = tmp_path / folder
        for index, (label, count) in enumerate(counts.items()):
            (root / label).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image = draw_photo(index, number)
                image.save(root / label / f"{number:03d}.jpg", quality=92)
        root.mkdir(exist_ok=True)
        return root

    return make


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of `TINY_MODEL` with a head of 1,000 outputs, as pretrained ones have."""
    import timm
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(7)
        module = timm.create_model(TINY_MODEL)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(module.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def train_tiny(tiny_weights: Path) -> Callable[..., Path]:
    """Returns a function that draws photos of labels into ``FOLDER/photos`` and trains on them.

    It returns the run, ``FOLDER/runs/tiny``.
    """

    def train_in(
        folder: Path,
        *,
        photos: int = 8,
        epochs: int = 2,
        mode: str = "head",
        labels: Sequence[str] = ("ant", "bee"),
    ) -> Path:
        from finetune.config_io import resolve
        from finetune.training.train import train

        for index, label in enumerate(labels):
            (folder / "photos" / label).mkdir(parents=True)
            for number in range(photos):
                draw_photo(index, number).save(folder / "photos" / label / f"{number}.png")
        flags = {
            "model": TINY_MODEL,
            "weights": str(tiny_weights),
            "size": TINY_SIZE,
            "device": "cpu",
            "epochs": epochs,
            "mode": mode,
            # Leaves the head unsure of random features.
            "head_l2": "30",
            "validation": 0.15,
        }
        run = train(folder / "photos", resolve({}, flags), run="tiny", runs=folder / "runs").run
        return run.path

    return train_in


@pytest.fixture(scope="module")
def trace_once() -> Iterator[None]:
    """Lets all ONNX files of a module, which must be of one run, share the traced network.

    Torch's exporter takes seconds for the smallest one.
    """
    import onnx

    from finetune.prediction.export import onnx as export_onnx

    traced: list[bytes] = []
    real = export_onnx._traced

    def remembered(engine: TorchEngine) -> onnx.ModelProto:
        if not traced:
            traced.append(real(engine).SerializeToString())
        return onnx.load_from_string(traced[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_onnx, "_traced", remembered)
        yield


@pytest.fixture
def tiny_settings(tiny_weights: Path) -> dict[str, object]:
    """Flags with which a training takes about a second."""
    return {
        "model": TINY_MODEL,
        "weights": str(tiny_weights),
        "size": TINY_SIZE,
        "device": "cpu",
        "epochs": 3,
        "batch_size": 8,
        # Weaker penalties fit a few photos of noise so closely that rounding errors show.
        "head_l2": "0.3,1",
        # Parts for heads too, which are cross-validated by default.
        "validation": 0.15,
    }


# Imports once what every child needs, then forks a child a task; no kernel runs before a fork.
# A line has the tasks to run at the same time, and is answered by their exit codes.
_CHILDREN = """
import json, os, sys, tempfile, traceback
import accelerate, torch
import finetune.experiments.cross_validate, finetune.training.train
def start(task):
    child = os.fork()
    if child:
        return child
    for number, name in ((1, task["stdout"]), (2, task["stderr"])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(task["environment"])
    tempfile.tempdir = None  # decided anew, by TMPDIR
    os.chdir(task["folder"])
    sys.argv, code = ["-c", *task["arguments"]], 1
    try:
        exec(task["code"], {"__name__": "__main__"})
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)
for line in sys.stdin:
    children = [start(task) for task in json.loads(line)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes), flush=True)
"""


@pytest.fixture(scope="session")
def _children() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", _CHILDREN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        yield server
        server.kill()


@pytest.fixture(scope="session")
def run_children(
    _children: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[subprocess.CompletedProcess[str]]]:
    """Returns a function that runs Python code in several processes at the same time.

    There is one process for each list of ``sys.argv[1:]``, with the environment in the same place
    of `environments` on top of this process's own.
    """

    def run(
        code: str, *arguments: Sequence[str], environments: Sequence[dict[str, str]] | None = None
    ) -> list[subprocess.CompletedProcess[str]]:
        assert _children.stdin is not None
        assert _children.stdout is not None
        folder = tmp_path_factory.mktemp("children")
        tasks = [
            {
                "code": code,
                "arguments": list(words),
                # A killed process leaves its temporary files, here for pytest to remove.
                "environment": {**os.environ, "TMPDIR": str(folder), **added},
                "folder": str(Path.cwd()),
                "stdout": str(folder / f"{number}.out"),
                "stderr": str(folder / f"{number}.err"),
            }
            for number, (words, added) in enumerate(
                zip(arguments, environments or [{} for _ in arguments], strict=True)
            )
        ]
        _children.stdin.write(json.dumps(tasks) + "\n")
        _children.stdin.flush()
        codes = json.loads(_children.stdout.readline())
        return [
            subprocess.CompletedProcess(
                code,
                code_of_exit,
                (folder / f"{number}.out").read_text(),
                (folder / f"{number}.err").read_text(),
            )
            for number, code_of_exit in enumerate(codes)
        ]

    return run


@pytest.fixture(scope="session")
def run_child(
    run_children: Callable[..., list[subprocess.CompletedProcess[str]]],
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Returns a function that runs Python code in a process of its own, with ``sys.argv[1:]``."""

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_children(code, arguments)[0]

    return run


COLORS = {"blue": (50, 60, 230), "green": (40, 200, 60), "red": (220, 40, 30)}
SEVERAL_PHOTOS = 60


def shapes(number: int) -> tuple[tuple[str, ...], Image.Image]:
    """Two discs at most, each of a color that is a label of the photo."""
    rng = np.random.default_rng(number)
    ground = rng.integers(90, 160, 3) + rng.integers(-15, 15, (48, 64, 1))
    image = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    labels = tuple(sorted(rng.choice(list(COLORS), int(rng.choice([0, 1, 2])), replace=False)))
    for label, left in zip(labels, (17, 46), strict=False):
        x, y = int(left + rng.integers(-3, 4)), int(rng.integers(14, 34))
        reach = int(rng.integers(9, 13))
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=COLORS[label])
    return labels, image


@pytest.fixture(scope="session")
def draw_shapes() -> Callable[[int], tuple[tuple[str, ...], Image.Image]]:
    """The function ``shapes(number)`` that gives the labels of a photo, and the photo."""
    return shapes


@pytest.fixture(scope="module")
def several_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder a label, a photo of two labels in both; photos of nothing in ``none``."""
    root = tmp_path_factory.mktemp("several") / "photos"
    for number in range(SEVERAL_PHOTOS):
        labels, image = shapes(number)
        for label in labels or ("none",):
            (root / label).mkdir(parents=True, exist_ok=True)
            image.save(root / label / f"{number:03d}.png")
    return root


@pytest.fixture
def several(tiny_settings: dict[str, object]) -> dict[str, object]:
    """Flags of a short training on `folders`."""
    return {**tiny_settings, "multi_label": True, "negatives": "none", "mode": "head"}


@pytest.fixture(scope="session")
def backbone() -> LoadedModel:
    """The packaged default backbone."""
    from finetune.curation.embedding import load_backbone

    return load_backbone()


@pytest.fixture(scope="session")
def demo_collection(tmp_path_factory: pytest.TempPathFactory) -> DemoCollection:
    """Four species, six photos each, no flaws."""
    from finetune.demo_data import draw_collection

    folder = tmp_path_factory.mktemp("demo_data") / "photos"
    return draw_collection(
        folder, species=4, photos_per_species=6, seed=3, size=(450, 300), flaws=False, workers=1
    )


@pytest.fixture
def birds(demo_collection: DemoCollection) -> Path:
    """The folder of that collection."""
    return demo_collection.folder


@pytest.fixture(scope="session")
def at_their_birds() -> Callable[[DemoCollection, Sequence[Photo]], list[Photo]]:
    """Returns a function that gives drawn photos crops around their birds."""

    def look_at(demo_collection: DemoCollection, photos: Sequence[Photo]) -> list[Photo]:
        from finetune.photos.crops import Crop

        truth = {drawn.path: drawn for drawn in demo_collection.photos}
        return [
            dataclasses.replace(
                photo,
                crop=Crop.from_box(truth[photo.path].box, photo.width, photo.height),
            )
            for photo in photos
        ]

    return look_at


def find_chromium() -> str | None:
    """Returns the path of Chromium: FINETUNE_CHROMIUM, or the usual names on the path."""
    names = [os.environ.get("FINETUNE_CHROMIUM", ""), "chromium", "chromium-browser"]
    names += ["google-chrome-stable", "google-chrome"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


@contextlib.contextmanager
def open_chromium() -> Iterator[Any]:
    """A real Chromium, driven by Playwright."""
    program = find_chromium()
    if program is None:
        pytest.skip(
            "THERE IS NO CHROMIUM: the pages are not tested in a browser. "
            "Install one (apt-get install chromium), or name it with FINETUNE_CHROMIUM."
        )
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="PLAYWRIGHT IS MISSING: the pages are not tested in a browser"
    )
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="session")
def start_browser() -> Callable[[], AbstractContextManager[Any]]:
    """The function that opens a real Chromium; only one can be open at a time."""
    return open_chromium
