from __future__ import annotations

import subprocess
import sys

import pytest

from finetune.models.recommended import RECOMMENDED, ListedModel, list_recommended
from finetune.models.registry import DEFAULT_MODEL, HUB_MODELS, list_models


@pytest.fixture(scope="module")
def counted() -> list[ListedModel]:
    """The rows as timm's own networks give them."""
    return list_models(RECOMMENDED, count_parameters=True)


def test_the_facts_of_recommended_models_are_those_of_timm(counted: list[ListedModel]) -> None:
    assert list_recommended() == counted


def test_the_defaults_are_recommended() -> None:
    assert {DEFAULT_MODEL, *HUB_MODELS.values()} <= set(RECOMMENDED)


def test_listing_builds_no_network() -> None:
    code = (
        "import sys; from finetune.models.recommended import list_recommended; "
        "assert list_recommended(); print([m for m in ('torch', 'timm') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert found == "[]\n"
