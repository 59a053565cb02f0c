"""Sentences about actions, in English for the journal and in the user's language for the page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from gettext import NullTranslations

from finetune.web.messages import marked

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
    (template, _pattern(template)) for template in (*ACTIONS.values(), *LABEL_EDITS.values())
]


def localized(description: str, texts: NullTranslations) -> str:
    """Returns a description of the journal in another language; an unknown one as it is.

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
            else:
                values[name] = value.replace(NO_LABEL, texts.gettext(NO_LABEL))
        return texts.gettext(template).format(**values)
    return description
