"""A drawn collection, a labeling server for it, and a real browser."""

from __future__ import annotations

import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from finetune.demo_data import draw_collection
from finetune.photos.catalog.catalog import Catalog
from finetune.web import security
from finetune.web.annotate.app import annotate_app
from finetune.web.annotate.session import Session
from finetune.web.annotate.workers import ScanWorker, SuggestionWorker
from finetune.web.server import Server, listen

_EXPECTED = re.compile("status of 4|net::ERR_(CONNECTION|FAILED)")
"""Console message of Chromium for a refused request."""

_SERVER_DIED = re.compile("net::ERR_")
"""Console message of Chromium when the server ends during a request."""


@pytest.fixture(scope="session")
def demo_collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of 9 small photos each of four species, with bursts and flaws."""
    folder = tmp_path_factory.mktemp("demo_data") / "birds"
    draw_collection(folder, species=4, photos_per_species=9, size=(160, 120), seed=3, workers=1)
    return folder


@pytest.fixture
def birds(demo_collection: Path, tmp_path: Path) -> Path:
    """A copy of `demo_collection` that a test may write to."""
    return Path(shutil.copytree(demo_collection, tmp_path / "birds"))


@pytest.fixture
def flat(demo_collection: Path, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The same photos in one folder in random order, and the true label of each by its name."""
    photos = sorted(path for path in demo_collection.glob("*/*") if path.is_file())
    random.Random(5).shuffle(photos)
    folder = tmp_path / "flat"
    folder.mkdir()
    truth = {}
    for number, path in enumerate(photos):
        name = f"IMG_{number:03d}{path.suffix}"
        shutil.copyfile(path, folder / name)
        truth[name] = path.parent.name
    return folder, truth


class LabelingServer:
    """A labeling server in a thread of this process."""

    def __init__(
        self, root: Path, *, suggests: bool = False, scan: bool = True, **options: Any
    ) -> None:
        self.root = root
        self.session = Session(root, **options)
        self.listening = listen("127.0.0.1", 0)
        self.port = self.listening.getsockname()[1]
        self.token = security.new_token()
        self.policy = security.policy_for("127.0.0.1", self.port, self.token)
        self.scan_worker = ScanWorker(self.session)
        self.suggestion_worker = SuggestionWorker(self.session)
        app = annotate_app(self.session, self.policy, self.suggestion_worker)
        self.server = Server(app, self.listening)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        if scan:
            self.scan_worker.start()
            assert self.scan_worker.done.wait(30)
        if suggests:
            self.suggestion_worker.start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        return security.address_of("127.0.0.1", self.port, self.token)

    def client(self, **headers: str) -> httpx.Client:
        """Returns a client with the token."""
        headers = {"Authorization": f"Bearer {self.token}", **headers}
        return httpx.Client(base_url=self.origin, headers=headers, trust_env=False, timeout=10)

    def catalog(self) -> Catalog:
        """Opens the catalog as another process would."""
        return Catalog(self.session.catalog.path)

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Returns the labels of all photos by path, from the catalog on disk."""
        with self.catalog() as catalog:
            collection = catalog.collection(self.root, with_excluded=True)
        return {photo.path: photo.labels for photo in collection.photos}

    def stop(self) -> None:
        self.server.stop()
        self.thread.join(10)
        self.suggestion_worker.stop()
        self.scan_worker.stop()
        self.session.close()
        self.listening.close()


def wait_until(check: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Waits until the check is true; returns its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not true within {seconds} s")


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[..., Any]:
    """The function `wait_until`, for tests."""
    return wait_until


@pytest.fixture
def serve() -> Iterator[Callable[..., LabelingServer]]:
    """Returns a function that starts a labeling server on a folder."""
    running: list[LabelingServer] = []

    def start(root: Path, **options: Any) -> LabelingServer:
        running.append(LabelingServer(root, **options))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="module")
def shared_server(
    demo_collection: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabelingServer]:
    """A labeling server for tests that change nothing."""
    root = shutil.copytree(demo_collection, tmp_path_factory.mktemp("shared") / "birds")
    server = LabelingServer(root)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def browser(start_browser: Callable[[], AbstractContextManager[Any]]) -> Iterator[Any]:
    """A real Chromium."""
    with start_browser() as found:
        yield found


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Returns a function that opens an address; an error in the page fails the test."""
    contexts = []
    troubles: list[str] = []

    def open_address(
        address: str, *, context: Any = None, server_dies: bool = False, **options: Any
    ) -> Any:
        def check_console(message: Any) -> None:
            expected = _EXPECTED.search(message.text) or (
                server_dies and _SERVER_DIED.search(message.text)
            )
            if message.type == "error" and not expected:
                troubles.append(message.text)

        if context is None:
            options.setdefault("viewport", {"width": 1200, "height": 800})
            context = browser.new_context(**options)
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", check_console)
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_address
    for context in contexts:
        context.close()
    assert not troubles
