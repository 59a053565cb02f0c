"""Text in pictures, with a font for each character found on this machine."""

from __future__ import annotations

import logging
import shutil
import subprocess
import unicodedata
from functools import lru_cache
from itertools import groupby
from typing import Literal

from PIL import ImageDraw, ImageFont

FILES = (
    "DejaVuSans.ttf",
    "ヒラギノ角ゴシック W3.ttc",
    "YuGothM.ttc",
    "meiryo.ttc",
    "msgothic.ttc",
    "NotoSansCJK-Regular.ttc",
    "ipagp.ttf",
    "ipag.ttf",
    "NotoSans-Regular.ttf",
    "Arial Unicode.ttf",
)
"""Font files tried after Pillow's own font; fontconfig is asked for characters they all lack."""

MISSING = "□"
"""Drawn in place of a character that no installed font has."""

Color = str | tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_Source = tuple[str, int] | None  # file and face; None: Pillow's own font

logger = logging.getLogger(__name__)


def has_glyphs(text: str) -> bool:
    """Returns whether the installed fonts have all characters of a text."""
    return all(_source_of(letter) is not False for letter in _prepared(text))


def text_width(text: str, size: float) -> float:
    """Returns the width of a text in pixels."""
    return sum(float(font.getlength(part)) for part, font in _parts(text, size))


def draw_text(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    *,
    size: float,
    fill: Color,
    anchor: str = "la",
) -> None:
    """Draws a line of text, each character in the first font that has it.

    Args:
        pen: Draws on the picture.
        place: Anchor in pixels.
        text: One line.
        size: Height of the font in pixels.
        fill: Color.
        anchor: Pillow's: ``l``, ``m`` or ``r``, then ``a`` (top), ``m`` (middle) or ``s``
            (baseline).
    """
    x, y = place
    x -= {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]] * text_width(text, size)
    ascent, descent = 0.95 * size, 0.2 * size
    y += {"a": ascent, "m": (ascent - descent) / 2, "s": 0.0}[anchor[1]]
    for part, font in _parts(text, size):
        pen.text((x, y), part, fill, font, anchor="ls")
        x += float(font.getlength(part))


def fitted(text: str, size: float, width: float) -> str:
    """Returns a text that is at most `width` pixels wide, its middle left out where it is longer.

    The ends of names tell them apart: ``Larus argentatus`` and ``Larus michahellis``.
    """
    if text_width(text, size) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        shorter = text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
        if text_width(shorter, size) <= width:
            return shorter
    return "…"


def _prepared(text: str) -> str:
    # macOS writes names decomposed; fonts have the composed characters.
    return unicodedata.normalize("NFC", " ".join(text.split()))


def _parts(text: str, size: float) -> list[tuple[str, Font]]:
    """Returns the text in parts that one font can draw."""
    letters: list[tuple[str, _Source]] = []
    lacking = ""
    for letter in _prepared(text):
        source = _source_of(letter)
        if unicodedata.combining(letter) and letters:
            source = letters[-1][1]  # a mark and its letter are of one font
        elif source is False:
            lacking, letter, source = lacking + letter, MISSING, _source_of(MISSING)
        letters.append((letter, source or None))
    if lacking:
        _warn_once()
        logger.debug("no font has %r", lacking)
    return [
        ("".join(letter for letter, _ in part), _font(source, round(size)))
        for source, part in groupby(letters, key=lambda pair: pair[1])
    ]


@lru_cache(maxsize=1)
def _warn_once() -> None:
    logger.warning(
        "No installed font has some characters of the labels, so that pictures show %s instead. "
        "Install a font that has them, such as Noto Sans CJK.",
        MISSING,
    )


@lru_cache(maxsize=8192)
def _source_of(letter: str) -> _Source | Literal[False]:
    """Returns the first font with a character, None for Pillow's own; False if none has it."""
    if not letter.strip():
        return None
    for source in (None, *((name, 0) for name in FILES)):
        if _has(source, letter):
            return source
    asked = _ask_fontconfig(letter)
    return asked if asked is not None and _has(asked, letter) else False


def _has(source: _Source, letter: str) -> bool:
    try:
        font = _font(source, 16)
        # A font draws every missing character as the same box, like a code point that none has.
        return bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))
    except OSError:
        return False


@lru_cache(maxsize=256)
def _font(source: _Source, size: int) -> Font:
    if source is None:
        return ImageFont.load_default(size)
    file, face = source
    return ImageFont.truetype(file, size, index=face)


def _ask_fontconfig(letter: str) -> tuple[str, int] | None:
    program = shutil.which("fc-match")
    if program is None:
        return None
    # Chinese characters have Japanese shapes unless a text says otherwise.
    language = "ko" if unicodedata.name(letter, "").startswith("HANGUL") else "ja"
    pattern = f"sans-serif:lang={language}:charset={ord(letter):x}"
    try:
        answer = subprocess.run(
            [program, "--format", "%{file}\t%{index}", pattern],
            capture_output=True,
            check=True,
            timeout=10,
        ).stdout.decode("utf-8", "replace")
        file, _, face = answer.partition("\t")
        return file, int(face) & 0xFFFF
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
