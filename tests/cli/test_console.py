from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest
from rich.table import Table

from finetune import __main__ as entry
from finetune import cli
from finetune.cli.console import Output, VisibleConsole, json_text, output, prepare_streams

TEXT = "\u30ab\u30ef caf\udce9 \u2588\u2588\u258f 93.5\u202f% \u2013 \u00e9"


def redirected(
    monkeypatch: pytest.MonkeyPatch, encoding: str, errors: str = "strict"
) -> io.BytesIO:
    """Standard output into a file, in an encoding."""
    file = io.BytesIO()
    stream = io.TextIOWrapper(file, encoding=encoding, errors=errors, write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    prepare_streams()
    return file


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("utf-8", TEXT.encode("utf-8", "surrogateescape")),
        ("utf-8-sig", b"\xef\xbb\xbf" + TEXT.encode("utf-8", "surrogateescape")),
        ("ascii", b"?? caf? ##  93.5 % - ?"),
        ("cp1252", "?? caf? ##  93.5 % \u2013 \u00e9".encode("cp1252")),
        ("cp932", "\u30ab\u30ef caf? ##  93.5 % - ?".encode("cp932")),
        ("latin-1", "?? caf? ##  93.5 % - \u00e9".encode("latin-1")),
    ],
)
def test_text_keeps_what_the_encoding_has_and_replaces_the_rest(
    monkeypatch: pytest.MonkeyPatch, encoding: str, written: bytes
) -> None:
    file = redirected(monkeypatch, encoding)
    sys.stdout.write(TEXT)
    assert file.getvalue() == written


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252", "cp932", "utf-16"])
def test_json_is_json_in_every_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    file = redirected(monkeypatch, encoding)
    monkeypatch.setattr(output, "json", True)
    output.document({"photo": TEXT})
    output.document(["\U0001f426"])
    output.line(TEXT)
    text = file.getvalue().decode(encoding)
    assert json.loads("[" + text.replace("\n}\n", "\n},").replace("\n]\n", "\n],") + "]") == [
        {"photo": TEXT},
        ["\U0001f426"],
        TEXT,
    ]
    assert ("\u30ab" in text) == (encoding == "utf-8")


def test_file_names_on_standard_input_keep_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9.jpg\n"), "utf-8"))
    prepare_streams()
    assert os.fsencode(sys.stdin.readline()) == b"caf\xe9.jpg\n"


def test_closed_output_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(output, "json", True)
    prepare_streams()
    output.document({"a": 1})
    assert json_text({"a": "\u00e9"}) == '{"a": "\u00e9"}'
    sys.stdout.close()


def exit_code_of_main(monkeypatch: pytest.MonkeyPatch, stdout: io.TextIOWrapper) -> object:
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(cli, "app", lambda: sys.stdout.write("some text"))
    with pytest.raises(SystemExit) as caught:
        entry.main()
    stdout.close()
    return caught.value.code


def test_reader_that_has_gone_is_told_by_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert exit_code_of_main(monkeypatch, os.fdopen(writer, "w")) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_output_to_a_full_disk_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of_main(monkeypatch, os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")) == 1
    assert capsys.readouterr().err == (
        "Error: The output cannot be written: No space left on device.\n"
    )


def printed() -> tuple[Output, io.StringIO]:
    target = io.StringIO()
    console = VisibleConsole(file=target, force_terminal=True, width=80, highlight=False)
    return Output(stdout=console, stderr=console), target


def test_escapes_in_names_are_printed_visibly() -> None:
    shown, target = printed()
    name = "a\x1b]0;title\x9b2J\u202e.jpg"
    table = Table("name")
    table.add_row(shown.literal(name))
    shown.text(name)
    shown.info(name)
    shown.warn(name)
    shown.error(name)
    shown.print(table)
    text = target.getvalue()
    assert text.count("a␛]0;title\\x9b2J\\u202e.jpg") == 5
    assert "\x1b]" not in text
    assert not set(text) & {"\x9b", "\u202e"}
    # The console's own styles stay.
    assert "\x1b[1;31mError:" in text


def test_json_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(json=True)
    value = {"photo": "a\x9b\u202e\udce9.jpg"}
    output.document(value)
    text = capsys.readouterr().out
    assert text.isprintable() or text.replace("\n", "").isprintable()
    assert json.loads(text) == value
