"""Entry point of the ``finetune`` command and of ``python -m finetune``."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line.

    Exit codes: 0 done, 1 a FinetuneError, 2 wrong usage, 130 interrupted.
    """
    try:
        from finetune.cli import app

        app()
    except KeyboardInterrupt:
        # Ctrl-C while modules are being imported, before a command could handle it.
        sys.stderr.write("Error: Interrupted.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
