"""Self-test: a small training and prediction on drawn photos, in a process of its own.

It has a process of its own so that it ends in time on a busy machine, and so that a crash of torch
or OpenCV is a line of the diagnosis.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.diagnostics.redaction import describe_error
from finetune.photos.decode.pool import worker_command

SPECIES, PHOTOS, SIZE = 3, 4, (360, 240)
INPUT_SIZE = 128
"""Side of the network's input; smaller than its own, to save time."""

LIMIT_SECONDS = 11.0
"""Time after which the self-test is stopped, so that the diagnosis takes less than 15 seconds."""


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """Result of the self-test.

    Attributes:
        seconds: Duration of each step that was completed.
        error: The error that ended it; None: no step failed.
        stopped: Whether its time was over before the last step.
    """

    seconds: dict[str, float]
    error: str | None
    stopped: bool = False


class SelfTestProcess:
    """Self-test that runs beside this process.

    Draws photos, finds their subjects, trains, and predicts, as a user's collection would be, with
    the default device and model, in a temporary folder, which is removed.

    Args:
        command: Command line of the process; None: that of this module.
    """

    def __init__(self, command: list[str] | None = None) -> None:
        self._started = time.monotonic()
        self._folder = tempfile.TemporaryDirectory(
            prefix="finetune-doctor-", ignore_cleanup_errors=True
        )
        command = command or worker_command("finetune.diagnostics.self_test")
        try:
            self._process = subprocess.Popen(
                [*command, self._folder.name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            self._folder.cleanup()
            raise

    def result(self, limit: float) -> SelfTest:
        """Returns the result; ends the process when it has run for `limit` seconds."""
        stopped = False
        left = max(0.0, self._started + limit - time.monotonic())
        try:
            output, _ = self._process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            stopped = True
            self._process.kill()
            output, _ = self._process.communicate()
        finally:
            self._folder.cleanup()
        seconds: dict[str, float] = {}
        error = None
        finished = False
        for line in output.decode().splitlines():
            message = json.loads(line)
            seconds |= message.get("seconds", {})
            error = message.get("error", error)
            finished = finished or "finished" in message
        if not finished and error is None and not stopped:
            code = self._process.returncode
            step = f"after “{list(seconds)[-1]}”" if seconds else "at its beginning"
            error = f"The process crashed {step} with exit code {code}."
        return SelfTest(seconds=seconds, error=error, stopped=stopped and not finished)


def main() -> None:
    """Runs the steps in the folder named last, and prints a line of JSON after each."""

    def send(**message: object) -> None:
        output.write(json.dumps(message) + "\n")
        output.flush()

    # Whatever libraries print is no message.
    output, sys.stdout = sys.stdout, sys.stderr
    try:
        for step, seconds in _steps(Path(sys.argv[-1])):
            send(seconds={step: round(seconds, 2)})
    except Exception as error:  # noqa: BLE001 - any failure is what the report is about
        send(error=describe_error(error))
    else:
        send(finished=True)


def _steps(folder: Path) -> Iterator[tuple[str, float]]:
    """Yields each step that was completed, with its duration."""
    photos, unseen = folder / "photos", folder / "unseen"
    clock = _Clock()
    from finetune.config_io import resolve
    from finetune.curation.crop_policy import CropPolicyConfig
    from finetune.curation.crop_proposals import propose_crops
    from finetune.demo_data import draw_collection, draw_unseen
    from finetune.prediction.predictor import Predictor
    from finetune.training.train import train

    yield "import torch", clock.passed()
    draw_collection(photos, species=SPECIES, photos_per_species=PHOTOS, size=SIZE, workers=1)
    draw_unseen(unseen, count=2, species=SPECIES, size=SIZE)
    yield "draw photos", clock.passed()
    propose_crops(photos, CropPolicyConfig(method="saliency"))
    yield "find subjects", clock.passed()
    run = train(photos, resolve({}, {"size": INPUT_SIZE}), run="doctor", runs=folder / "runs").run
    yield "train", clock.passed()
    for prediction in Predictor.load(run).predict_stream(sorted(unseen.iterdir())):
        if prediction.error is not None:
            raise RuntimeError(f"a drawn photo could not be predicted: {prediction.error}")
    yield "predict", clock.passed()


class _Clock:
    """Time since it was last asked."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def passed(self) -> float:
        """Returns the seconds since the last call, or since the start."""
        last, self._last = self._last, time.perf_counter()
        return self._last - last
