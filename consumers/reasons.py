"""Reasons why a message cannot be used, as codes that can be counted: what was said of it, without its contents."""

from __future__ import annotations

import re
from typing import NamedTuple, get_args

from consumers.wire import MAX_BYTES, MAX_CANDIDATES, MAX_ID, MAX_NUMBERS, MAX_SLOTS, Name


class Reason(NamedTuple):
    """What is wrong with a message.

    Attributes:
        code: one word.
        field: the field of the message it is about, "" = the message as a whole.
        expected: what should have been there.
    """

    code: str
    field: str
    expected: str

    @property
    def name(self) -> str:
        """What reasons are counted and chosen by: `wrong_type:user`, `malformed_json`."""
        return f"{self.code}:{self.field}" if self.field else self.code


FIELDS = {
    "v": "1, the version of the format",
    "user": f"text of 1 to {MAX_ID} characters",
    "kind": f"one of {', '.join(get_args(Name))}",
    "item": f"text of 1 to {MAX_ID} characters, for impression, click, skip, purchase, rating, item and retire",
    "time": "seconds since the epoch, from 1970 to 2100",
    "value": "a number from -1e9 to 1e9",
    "session": f"text of at most {MAX_ID} characters",
    "decision": "a whole number from -2^53 to 2^53",
    "slot": f"a whole number from -1 to {MAX_SLOTS - 1}",
    "slate": f"a list of at most {MAX_SLOTS} ids",
    "slot_logp": "as many numbers as `slate` has items, each at most 0 or null",
    "id": f"text of at most {MAX_ID} characters",
    "policy": f"text of at most {MAX_ID} characters",
    "model": f"text of at most {MAX_ID} characters",
    "category": f"text of at most {MAX_ID} characters",
    "available": "true or false",
    "context": f"a list of at most {MAX_NUMBERS} numbers, as many as world.context says",
    "candidates": f"a list of at most {MAX_CANDIDATES} ids, none of them empty",
}
"""What each field of an event message must be."""

_OBJECT = "one JSON object in UTF-8"
_FIELD = re.compile(r"at `\$\.(\w+)")
_MISSING = re.compile(r"^Object missing required field `(\w+)`")
_WHOLE = (
    ("no_value", re.compile(r"^Expected a JSON object, got a record without value"), f"{_OBJECT}, got no value"),
    ("too_long", re.compile(r"^Expected at most \d+ bytes, got"), f"at most {MAX_BYTES} bytes"),
    ("cut_short", re.compile(r"^Input data was truncated"), f"{_OBJECT}, to its end"),
    ("malformed_json", re.compile(r"^JSON is malformed"), _OBJECT),
    ("too_deep", re.compile(r"^JSON is nested too deeply"), "one flat JSON object"),
    ("not_utf8", re.compile(r"codec can't decode|[Ii]nvalid UTF-?8"), _OBJECT),
    ("not_an_object", re.compile(r"^Expected `object`, got `\w+`$"), _OBJECT),
)
_OF_FIELD = (
    ("catalogue_full", re.compile(r"^the catalogue is full"), "an item the catalogue knows or has room for"),
    ("wide_slate", re.compile(r"^Expected at most \d+ items as in run\.slate"), "at most run.slate items"),
    ("unequal_lengths", re.compile(r"^Expected \d+ values as in"), ""),
    ("wrong_type", re.compile(r"^Expected `[^`]+`, got"), ""),
    ("unknown_value", re.compile(r"^Invalid (enum )?value"), ""),
    ("out_of_range", re.compile(r"^Expected `\w+` (of length )?[<>]|out of range"), ""),
)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\d+")


def reason_of(said: str) -> Reason:
    """The code of what `wire.decode_event`, or whoever else refused a message, said about it.

    Words that are not known stand for themselves, without what they quote and without numbers.
    """
    if found := _MISSING.match(said):
        return Reason("missing_field", found[1], FIELDS.get(found[1], "this field"))
    for code, pattern, expected in _WHOLE:
        if pattern.search(said):
            return Reason(code, "", expected)
    at = _FIELD.search(said)
    field = at[1] if at else ""
    for code, pattern, expected in _OF_FIELD:
        if pattern.search(said):
            return Reason(code, field, expected or FIELDS.get(field, _OBJECT))
    return Reason(_QUOTED.sub("…", said)[:120], "", _OBJECT)
