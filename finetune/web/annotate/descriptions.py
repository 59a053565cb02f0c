"""Sentences about actions and refusals, in English and in the user's language for the page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from gettext import NullTranslations

from finetune.messages import marked
from finetune.web.messages import REASONS

ACTIONS: Mapping[str, str] = {
    "label": marked("label {photos} as {names}"),
    "add": marked("add {names} to {photos}"),
    "remove": marked("remove {names} from {photos}"),
    "accept": marked("accept {names} for {photos}"),
    "resolve": marked("resolve {photos} as {names}"),
    "clear": marked("clear the label of {photos}"),
    "confirm": marked("confirm the label of {photos}"),
    "flag": marked("flag {photos}"),
    "unflag": marked("unflag {photos}"),
    "reject": marked("reject {photos}"),
    "restore": marked("restore {photos}"),
    "crop": marked("crop {photos}"),
    "stars": marked("give {photos} {stars}"),
    "together": marked("group {photos}"),
    "apart": marked("take {photos} out of the group"),
    "keep": marked("keep one of {photos}"),
}
"""Sentences about actions on photos, by kind."""

LABEL_EDITS: Mapping[str, str] = {
    "rename": marked("rename the label {label} to {to}"),
    "delete": marked("delete the label {label}"),
    "pin": marked("pin the label {label}"),
    "unpin": marked("unpin the label {label}"),
    "color": marked("change the color of {label}"),
    "order": marked("change the order of the labels"),
}
"""Sentences about edits of labels, by kind."""

NO_LABEL = marked("none of the labels")

NO_SUCH_LABEL = marked("There is no label {label}.")
NO_SUCH_PHOTO = marked("There is no such photo.")
FOLDER_LABEL = marked(
    "{label} is the name of a folder, so its photos have this label. Rename the label, or give the "
    "photos another one."
)
UNREADABLE = marked(
    "{path} cannot be read: {reason}. Reload the page to update the list of photos."
)
LABEL_LINE = marked("A label must be a single line of text.")
LABEL_LENGTH = marked("A label must have 1 to {most} characters.")

REFUSALS: Sequence[str] = (
    NO_SUCH_LABEL,
    NO_SUCH_PHOTO,
    FOLDER_LABEL,
    UNREADABLE,
    LABEL_LINE,
    LABEL_LENGTH,
    # Of the catalog, and of the background jobs.
    marked(
        "Could not write {path}: the disk is full. Free some space and run the same command again. "
        "Older files are intact."
    ),
    marked(
        "The catalog {path} is in use by another process. Wait until it is done, or stop it, and "
        "run the same command again."
    ),
    marked(
        "Could not read or write {path}: the disk is full, or a network drive has failed. Free "
        "some space, or choose a local file with --catalog, and run the same command again. What "
        "was saved before is intact."
    ),
    marked("Photos could not be read; see the terminal."),
    marked("No suggestions; see the terminal."),
    marked("Photos could not be read: {reason}"),
    marked("No suggestions: {reason}"),
)
"""Sentences about what was refused or failed."""

_COUNTED = {
    "photos": ("{count} photo", "{count} photos"),
    "stars": ("{count} star", "{count} stars"),
}


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    text = ""
    for number, part in enumerate(parts):
        if number % 2 == 0:
            text += re.escape(part)
        elif part in _COUNTED:
            nouns = "|".join(form.removeprefix("{count} ") for form in _COUNTED[part][::-1])
            text += rf"(?P<{part}>[\d,]+) (?:{nouns})"
        else:
            text += f"(?P<{part}>.+)"
    return re.compile(text, re.DOTALL)


_PATTERNS = [
    (template, _pattern(template))
    for template in (*ACTIONS.values(), *LABEL_EDITS.values(), *REFUSALS)
]


def localized(description: str, texts: NullTranslations) -> str:
    """Returns a description or refusal in another language; an unknown one as it is.

    Example:
        >>> localized("flag 3 photos", NullTranslations())
        'flag 3 photos'
    """
    for template, pattern in _PATTERNS:
        match = pattern.fullmatch(description)
        if match is None:
            continue
        values = {}
        for name, value in match.groupdict().items():
            if name in _COUNTED:
                number = int(value.replace(",", ""))
                values[name] = texts.ngettext(*_COUNTED[name], number).format(count=value)
            elif name == "reason":
                values[name] = localized(value, texts)
            else:
                values[name] = value.replace(NO_LABEL, texts.gettext(NO_LABEL))
        return texts.gettext(template).format(**values)
    return texts.gettext(description) if description in REASONS else description
