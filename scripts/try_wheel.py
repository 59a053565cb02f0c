"""Uses an installed finetune through its commands: demo, doctor, report, annotate and serve."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import urllib.request
from pathlib import Path

PROGRAM = Path(sysconfig.get_path("scripts")) / "finetune"


def run(*words: str) -> str:
    """Returns what a command prints; an error ends the script."""
    print("$ finetune", *words, flush=True)
    return subprocess.run([PROGRAM, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def fetch(address: str, body: bytes | None = None) -> bytes:
    """Returns the body of a response of a local server."""
    # The token of the address is exchanged for a cookie.
    cookies = urllib.request.HTTPCookieProcessor()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)
    request = urllib.request.Request(address, data=body)
    with opener.open(request, timeout=60) as response:
        return bytes(response.read())


def served(*words: str) -> tuple[subprocess.Popen[str], str]:
    """Starts a command that serves a page and returns it with the page's address."""
    print("$ finetune", *words, flush=True)
    process = subprocess.Popen([PROGRAM, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://\S+", line):
            return process, found[0]
    raise SystemExit(f"finetune {words[0]} ended without an address")


def main() -> None:
    """Runs the commands in the current folder."""
    import finetune

    place = Path(finetune.__file__).resolve()
    if "site-packages" not in place.parts:
        raise SystemExit(f"This is the checkout, not an installed wheel: {place}")
    run("--version")
    run("demo", "drawn", "--per-label", "12")
    run("report", "drawn/runs/demo", "--no-explain")
    assert Path("drawn/runs/demo/report.html").stat().st_size > 100_000
    run("doctor")
    photo = next(Path("drawn/unseen").glob("*.jpg"))
    process, address = served("serve", "drawn/runs/demo", "--port", "0")
    try:
        origin = address.rstrip("/")
        assert b"<html" in fetch(origin)
        found = json.loads(fetch(f"{origin}/v1/predict", photo.read_bytes()))
        print("  ", found[0]["ranked"][0], flush=True)
    finally:
        process.terminate()
        process.wait(30)
    process, address = served("annotate", "drawn/photos", "--no-open", "--port", "0")
    try:
        assert b"<html" in fetch(address)
    finally:
        process.terminate()
        process.wait(30)
    print("The installed finetune works.")


if __name__ == "__main__":
    sys.exit(main())
