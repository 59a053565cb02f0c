"""Runs the labeling command in a process that is killed, on a port of one's choice."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_CODE = (
    "import sys; from finetune.cli.annotate import annotate; from pathlib import Path; "
    "annotate(Path(sys.argv[1]), labels='a,b', port=int(sys.argv[2]), open_browser=False)"
)


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def killed_at_exit(folder: Path, port: int = 0) -> Iterator[str]:
    """Yields the address of the page, then kills its process."""
    with subprocess.Popen(
        [sys.executable, "-c", _CODE, str(folder), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None
            yield found.group(0)
        finally:
            process.send_signal(signal.SIGKILL)
