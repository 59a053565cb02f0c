from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory, train_tiny: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("home")
    train_tiny(root, photos=6, epochs=1)
    return root


@pytest.fixture(autouse=True)
def _at_home(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cache_dir)


def test_the_largest_difference_is_printed(run: Callable[..., Result]) -> None:
    shown = run("export", "tiny", "--format", "timm")
    assert "runs/tiny/export/tiny-timm" in shown.stdout
    assert (
        "its probabilities differ from the run's by 0.0e+00 at most; 100\u202f% have"
        in shown.stdout
    )


def test_json_is_one_document(run: Callable[..., Result], tmp_path: Path) -> None:
    words = ("--format", "torchscript", "--with-softmax", "--output", tmp_path / "m.pt", "--json")
    found = json.loads(run("export", *words, "--photos", "photos/bee").stdout)
    assert found["photos"] == 6
    assert found["largest_difference"] < 1e-5
    assert Path(found["path"]).stat().st_size == found["bytes"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format", "gguf"), "--format gguf is not one of onnx, torchscript, timm."),
        (("--precision", "fp8"), "--precision fp8 is not one of fp32, fp16, int8."),
        (
            ("--format", "timm", "--with-softmax"),
            "--format timm holds the network alone; leave out --with-preprocessing and "
            "--with-softmax.",
        ),
        (("--push", "name"), "--push name: the hub names a model OWNER/NAME."),
    ],
)
def test_impossible_options_are_an_error_of_one_line(
    error_of: Callable[..., str], words: tuple[str, ...], message: str
) -> None:
    assert error_of("export", *words) == message


def test_without_a_login_nothing_is_sent(
    error_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: pytest.fail("the hub was asked"))
    assert error_of("export", "--push", "me/birds") == (
        "--push: you are not logged in to the Hugging Face hub, and nothing was sent. Log in "
        "with: hf auth login"
    )


def test_what_is_sent_names_no_photo_and_no_path(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, cache_dir: Path
) -> None:
    import huggingface_hub

    sent: dict[str, bytes] = {}

    class Hub:
        def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
            assert (name, private, exist_ok) == ("me/birds", True, True)

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
            for path in folder_path.iterdir():
                sent[path.name] = path.read_bytes()

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert "--run hf://me/birds" in run("export", "tiny", "--push", "me/birds").stdout
    assert {"README.md", "config.json", "model.safetensors", "labels.json"} <= set(sent)
    for name, content in sent.items():
        assert str(cache_dir).encode() not in content, name
        assert b".png" not in content, name
