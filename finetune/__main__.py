"""Entry point of the ``finetune`` command and of ``python -m finetune``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """Runs the command line.

    Exit codes: 0 done, 1 a FinetuneError, 2 wrong usage, 130 interrupted, 141 when the reader of
    the output has gone.
    """
    interrupts: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    # A library that is interrupted while it is imported raises anything at all instead of a
    # KeyboardInterrupt, so the signal itself is noted.
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, note)
    try:
        from finetune.cli import app
        from finetune.cli.console import prepare_streams

        prepare_streams()
        app()
        code: str | int | None = 0
    except SystemExit as error:
        code = error.code
    except BrokenPipeError:
        code = _broken_pipe()
    except BaseException as error:
        if not interrupts and not isinstance(error, KeyboardInterrupt):
            raise
        sys.stderr.write("Error: Interrupted.\n")
        code = INTERRUPTED
    sys.exit(_flushed(code))


def _broken_pipe() -> int:
    from finetune.cli.console import BROKEN_PIPE

    return BROKEN_PIPE


def _flushed(code: str | int | None) -> str | int | None:
    """Writes what standard output holds and returns the exit code, another one if that failed."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # Python would try again at its end, and report that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return code or _broken_pipe()
        sys.stderr.write(f"Error: The output cannot be written: {error.strerror}.\n")
        return code or 1
    return code


if __name__ == "__main__":
    main()
