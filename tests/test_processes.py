from __future__ import annotations

import pytest

from finetune.errors import ConfigError
from finetune.processes import Share, launched, local_processes


def test_the_environment_of_a_launcher_names_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (launched(), local_processes()) == (Share(), 1)
    for name, value in {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert (launched(), local_processes()) == (Share(rank=2, count=4), 4)


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        ("first", "RANK=first in the environment must be a number, such as 0."),
        ("4", "RANK=4 in the environment must lie between 0 and WORLD_SIZE - 1 = 3."),
    ],
)
def test_a_share_that_cannot_be_is_an_error(
    rank: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError) as error:
        launched()
    assert str(error.value) == message
