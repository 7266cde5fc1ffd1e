"""The entries of a COCO JSON as real tools write them: ids as 4.0 or "4", numbers as text, sizes
and areas that are null, iscrowd as "false"."""

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

# Ids and coordinates travel as float64.
_LARGEST = 1 << 53
_A_WHOLE_NUMBER = "a whole number below 2 to the power of 53"

_NUMERIC = {int, float}

Entry = dict[str, Any]

_FLAGS = {"": False, "false": False, "no": False, "true": True, "yes": True}
# What tools write for a size that they do not know.
_NO_SIZE = ("", "none", "null", "nan")


def entries_of(content: object, key: str) -> list[Entry]:
    """The list under `key` of the file; raises ValueError if there is none, or one of its entries
    is not an object."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"it has no list {key!r}")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{key}[{number}] is {reprlib.repr(entry)}, not an object")
    return entries


def ids_of(entries: list[Entry], key: str) -> list[int]:
    """The id of each entry; raises ValueError for one that is no whole number, and for one that two
    entries have."""
    ids = []
    first: dict[int, int] = {}
    for number, entry in enumerate(entries):
        found = whole_number(entry.get("id"))
        if found is None:
            raise ValueError(_faulty(f"{key}[{number}]", entry, "id", _A_WHOLE_NUMBER))
        if first.setdefault(found, number) != number:
            raise ValueError(f"{key}[{number}] has the id of {key}[{first[found]}], {found}")
        ids.append(found)
    return ids


def text_of(entry: Entry, field: str, where: str) -> str:
    """The text under `field`; raises ValueError."""
    value = entry.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(_faulty(where, entry, field, "a text"))
    return value


def size_of(image: Entry, where: str) -> tuple[int, int]:
    """The width and height that an entry of `images` states; 0, 0 unless it states both. Raises
    ValueError for what is no size."""
    width, height = image.get("width"), image.get("height")
    # As nearly all are written.
    if (
        type(width) is int
        and type(height) is int
        and 0 < width < _LARGEST
        and 0 < height < _LARGEST
    ):
        return width, height
    sides = {"width": width, "height": height}
    return stated_size(sides, lambda field: _faulty(where, image, field, "a number of pixels"))


def stated_size(sides: Mapping[str, object], fault_of: Callable[[str], str]) -> tuple[int, int]:
    """A width and a height as annotations state them, in this order, by their keys; 0, 0 unless
    both are: null, NaN, a text for these, or 0 is none.

    Raises ValueError, with what fault_of() says of the key, for a value that is no size.
    """
    numbers = []
    for key, value in sides.items():
        is_none = value is None or str(value).strip().lower() in _NO_SIZE
        number = 0.0 if is_none else number_of(value)
        if number is None or number < 0:
            raise ValueError(fault_of(key))
        numbers.append(round(number))
    width, height = numbers
    return (width, height) if width and height else (0, 0)


def whole_number(value: object) -> int | None:
    """An id, also as 4.0 or "4"; None for anything else."""
    if type(value) is not int:
        number = number_of(value)
        if number is None or number != int(number):
            return None
        value = int(number)
    return value if -_LARGEST < value < _LARGEST else None


def number_of(value: object) -> float | None:
    """A number, also as text; None for what is neither, for NaN and for infinity."""
    if type(value) in (int, float):
        return value if -_LARGEST < value < _LARGEST else None
    if not isinstance(value, str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and abs(number) < _LARGEST else None


def box_of(annotation: Entry) -> tuple[float, float, float, float] | None:
    """x, y, w, h; None where `bbox` is away or is not four numbers."""
    value = annotation.get("bbox")
    if not isinstance(value, list) or len(value) != 4:
        return None
    x, y, w, h = value
    # As nearly all are written, checked at once: NaN and infinity are not below anything.
    if {type(x), type(y), type(w), type(h)} <= _NUMERIC:
        try:
            if abs(x) + abs(y) + abs(w) + abs(h) < _LARGEST:
                return x, y, w, h
        except OverflowError:
            return None
    x, y, w, h = map(number_of, value)
    return None if x is None or y is None or w is None or h is None else (x, y, w, h)


def flag_of(value: object) -> bool | None:
    """iscrowd: 0, 1, true or false, also as text; absent and null are false. None for anything
    else."""
    if value is None:
        return False
    if isinstance(value, str):
        word = value.strip().lower()
        value = _FLAGS[word] if word in _FLAGS else number_of(word)
    return bool(value) if value in (0, 1) else None


def _faulty(where: str, entry: Entry, field: str, expected: str) -> str:
    if field not in entry:
        return f"{where} has no {field!r}"
    return f"{where} has {field} {reprlib.repr(entry[field])}, which is not {expected}"
