from __future__ import annotations

from pathlib import Path

import pytest

from finetune.diagnostics.redaction import describe_error, redact
from finetune.errors import ModelError


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("/home/maria/birds/robin.jpg: truncated", ".../robin.jpg: truncated"),
        ("no file '/home/maria/my birds/robin 2.jpg' here", "no file '.../robin 2.jpg' here"),
        (r"C:\Users\Maria\birds\robin.jpg is damaged", ".../robin.jpg is damaged"),
        (r"\\nas\maria\robin.jpg is damaged", ".../robin.jpg is damaged"),
        ("read '~/birds/robin.jpg'", "read '.../robin.jpg'"),
        ("a share of 3/4, and/or mobius_bound=1.5", "a share of 3/4, and/or mobius_bound=1.5"),
    ],
)
def test_a_path_keeps_its_last_part(text: str, redacted: str) -> None:
    assert redact(text) == redacted


def test_names_of_the_user_and_of_the_computer_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("USER", "maria")
    monkeypatch.setattr("platform.node", lambda: "birdhouse")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/mlopez"))
    text = "Maria at birdhouse, mlopez's cache; marias stays"
    assert redact(text) == "... at ..., ...'s cache; marias stays"


def test_an_error_names_its_lines_of_code() -> None:
    from finetune.models.registry import check_name

    with pytest.raises(ModelError) as raised:
        check_name("resnet18x")
    described = describe_error(raised.value)
    assert described.startswith("ModelError: --model resnet18x: there is no such model")
    assert "(at test_redaction" not in described
    assert "finetune.models.registry:" in described
    assert "/" not in described
