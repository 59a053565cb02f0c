from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from finetune.cli.command import Group
from finetune.errors import RunError


def app_that_raises(error: BaseException) -> typer.Typer:
    app = typer.Typer(cls=Group, pretty_exceptions_enable=False)

    @app.command()
    def work() -> None:
        raise error

    @app.command()
    def other() -> None:
        pass

    return app


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RunError("There is no run."), 1, "Error: There is no run.\n"),
        (KeyboardInterrupt(), 130, "Error: Interrupted.\n"),
        (
            ModuleNotFoundError("No module named 'starlette'", name="starlette.routing"),
            1,
            "Error: finetune work needs the package 'starlette'. Install it with: "
            "pip install 'finetune-photos[web]'\n",
        ),
    ],
)
def test_what_a_person_can_mend_is_one_line(error: BaseException, code: int, text: str) -> None:
    result = CliRunner().invoke(app_that_raises(error), ["work"])
    assert (result.exit_code, result.stderr) == (code, text)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a bug"), ModuleNotFoundError("no torch", name="torch")]
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    result = CliRunner().invoke(app_that_raises(error), ["work"])
    assert result.exception is error
