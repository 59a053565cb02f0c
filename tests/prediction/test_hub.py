"""Runs on the hub, with a stand-in: a server that answers the hub's client over HTTP."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save

from finetune import Predictor
from finetune.errors import FinetuneError, RunError
from finetune.prediction.hub import download_run, gather
from finetune.prediction.hub_address import HubAddress
from finetune.runs.folder import open_run

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Stand-in for the hub: one repository, whose files are those of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commit = COMMIT
        self.requests: list[str] = []
        self.sizes: dict[str, int] = {}

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Returns status, headers and body of a request."""
        self.requests.append(path)
        path = path.partition("?")[0]
        if path.startswith("/api/models/maria/birds"):
            siblings = [
                {
                    "rfilename": file.name,
                    "size": self.sizes.get(file.name, file.stat().st_size),
                    "blobId": "",
                }
                for file in sorted(self.folder.iterdir())
            ]
            found = {"id": "maria/birds", "sha": self.commit, "siblings": siblings}
            return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()
        file = self.folder / path.rpartition("/")[2]
        if not path.startswith("/maria/birds/resolve/") or not file.is_file():
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": self.commit}
        return 200, headers, content


@pytest.fixture(scope="module")
def pushed(
    train_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run, and the folder of what a push of it uploads."""
    folder = tmp_path_factory.mktemp("hub")
    run = train_tiny(folder)
    gather(open_run(run), folder / "model")
    return run, folder / "model"


@pytest.fixture
def hub(
    pushed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    """The stand-in, to which the hub's client connects."""
    shutil.copytree(pushed[1], tmp_path / "model")
    standin = Hub(tmp_path / "model")

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.reply(with_body=False)

        def do_GET(self) -> None:
            self.reply(with_body=True)

        def reply(self, *, with_body: bool) -> None:
            status, headers, body = standin.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)

    class Api(huggingface_hub.HfApi):
        def __init__(self) -> None:
            super().__init__(endpoint=address, token=False)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    real = huggingface_hub.hf_hub_download
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda *words, **names: real(
            *words, **names, cache_dir=tmp_path / "hub-cache", endpoint=address, token=False
        ),
    )
    yield standin
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_pushed_run_predicts_as_the_run_itself(hub: Hub, pushed: tuple[Path, Path]) -> None:
    photos = sorted((pushed[0].parents[1] / "photos").rglob("*.png"))
    here = Predictor.load(pushed[0]).predict_batch(photos)
    there = Predictor.load("hf://maria/birds").predict_batch(photos)
    assert [p.to_dict(5) for p in there] == [p.to_dict(5) for p in here]


def test_only_tensors_and_json_are_downloaded(hub: Hub) -> None:
    (hub.folder / "modeling.py").write_text("raise SystemExit")
    (hub.folder / "pytorch_model.bin").write_bytes(b"pickle")
    run = download_run("hf://maria/birds")
    assert {file.suffix for file in run.path.iterdir()} == {".json", ".safetensors"}
    fetched = {path.rpartition("/")[2] for path in hub.requests if "/resolve/" in path}
    assert fetched == {file.name for file in run.path.iterdir()} - {"config.json"} | {"run.json"}


def test_without_a_connection_the_latest_download_is_used(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = download_run("hf://maria/birds")
    count = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download_run("hf://maria/birds").path == first.path
    assert len(hub.requests) == count
    assert caplog.messages == [
        "hf://maria/birds: HF_HUB_OFFLINE is set; using the copy that was downloaded before."
    ]
    with pytest.raises(RunError, match="HF_HUB_OFFLINE is set, and it was not downloaded before"):
        download_run("hf://maria/birds@v2")


def test_a_hub_that_does_not_answer_is_an_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(RunError, match="the hub cannot be reached, and it was not downloaded"):
        download_run("hf://maria/birds")


def test_a_new_commit_is_another_folder(hub: Hub) -> None:
    first = download_run("hf://maria/birds")
    hub.commit = COMMIT[::-1]
    second = download_run("hf://maria/birds")
    assert first.path.name == second.path.name == "birds"
    assert first.path != second.path


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Returns a function that changes a JSON file of a folder."""

    def write(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(change(content)))

    return write


def with_other_tensors(folder: Path) -> None:
    """Replaces the network by a single tensor."""
    tensors = {"fc.weight": np.zeros((900, 3), np.float32)}
    (folder / "model.safetensors").write_bytes(save(tensors))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed("labels.json", lambda labels: ["ant\x1b[2J", *labels[1:]]), "labels.json"),
        (changed("run.json", lambda run: run | {"model": "../../etc"}), "config.json"),
        (changed("run.json", lambda run: []), "run.json cannot be read: it is not an object"),
        (changed("run.json", lambda run: run | {"settings": 3}), "config.json"),
        (changed("calibration.json", lambda c: c | {"temperature": 0}), "calibration.json"),
        (with_other_tensors, "The weights of this run do not fit test_resnet"),
        (lambda folder: (folder / "run.json").write_text("{"), "run.json cannot be read"),
    ],
    ids=["label", "model", "list", "settings", "temperature", "tensors", "json"],
)
def test_a_hostile_model_is_an_error(hub: Hub, damage: Callable[[Path], Any], message: str) -> None:
    damage(hub.folder)
    with pytest.raises(FinetuneError, match=message):
        Predictor.load("hf://maria/birds")


def test_a_model_of_others_is_an_error(hub: Hub) -> None:
    (hub.folder / "run.json").unlink()
    with pytest.raises(RunError, match=r"has no run\.json: it was not pushed by finetune"):
        download_run("hf://maria/birds")


def test_a_model_that_would_fill_the_disk_is_refused(hub: Hub) -> None:
    hub.sizes["model.safetensors"] = 9 << 30
    with pytest.raises(RunError, match=r"model\.safetensors is larger than 8192 MB"):
        download_run("hf://maria/birds")
    assert not any("/resolve/" in path for path in hub.requests)


def test_a_model_that_is_not_there_is_an_error(hub: Hub) -> None:
    with pytest.raises(RunError, match=r"^hf://maria/nothing: the hub refused: "):
        download_run("hf://maria/nothing")


@pytest.mark.parametrize(
    "text", ["hf://birds", "hf://a/b/c", "hf://../b", "hf://a/..", "hf://a/b@", "hf://a/b@-x"]
)
def test_an_address_has_an_owner_and_a_name(text: str) -> None:
    with pytest.raises(RunError, match="it has the form hf://OWNER/NAME"):
        HubAddress.parse(text)


def test_a_revision_is_asked_for(hub: Hub) -> None:
    download_run("hf://maria/birds@v2")
    assert any("/revision/v2" in path for path in hub.requests)
