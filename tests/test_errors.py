from __future__ import annotations

from finetune.errors import RunError


def test_a_message_is_one_line_with_its_begin_and_its_next_step() -> None:
    error = RunError("run/config.json is damaged:\n" + "a" * 100_000 + ".\nCopy it again.")
    assert len(str(error)) == 2000
    assert str(error).startswith("run/config.json is damaged: aaa")
    assert str(error).endswith("aaa. Copy it again.")


def test_a_short_message_is_unchanged() -> None:
    assert str(RunError("No run.")) == "No run."


def test_control_characters_of_a_quoted_file_are_escaped() -> None:
    error = RunError("--mode \x1b[2J\u202egpj is not one of カワセミ, é.")
    assert str(error) == "--mode \\x1b[2J\\u202egpj is not one of カワセミ, é."
