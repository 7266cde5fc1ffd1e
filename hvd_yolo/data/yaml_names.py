"""The class names of a data set: those of a data.yaml or a .names file, each of them once."""

import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from hvd_yolo.data.darknet import is_data_file
from hvd_yolo.data.data_yaml import Content, root_folder, short, text_of, whole_number
from hvd_yolo.data.text_files import locate, read_text
from hvd_yolo.errors import InputError

logger = logging.getLogger(__name__)

_MOST_CLASSES = 100_000


def class_names(file: Path, content: Content) -> tuple[str, ...]:
    """The classes that a data.yaml names, in the order of their numbers, as typed.

    `names` is a list, a map from number to name, or the name of a file with a name a line. With
    `nc` alone the classes are called class_0, class_1, ... Raises InputError for a name that is
    missing, blank or there twice, and where `nc` is another number.
    """
    names = content.get("names")
    count = _count(file, content)
    if names is None and count is not None:
        logger.info("%s names no classes; the %d of nc are class_0, class_1, ...", file, count)
        return tuple(f"class_{number}" for number in range(count))
    source = f"data {file}"
    if isinstance(names, str):
        source, names = _names_of_file(file, content, names)
    if isinstance(names, dict):
        names = _in_order(file, names)
    if not isinstance(names, list) or not names:
        raise InputError(f"data {file}: names is missing; expected a list of class names")
    found = tuple(text_of(file, f"names[{number}]", name) for number, name in enumerate(names))
    if count is not None and count != len(found):
        raise InputError(
            f"data {file}: nc is {short(content['nc'])}, but names has {len(found)} classes"
        )
    for number, name in enumerate(found):
        if not name.strip():
            raise InputError(f"{source}: names[{number}] is blank; give the class a name")
    refuse_equal_names(source, found)
    return found


def refuse_equal_names(source: str, names: Sequence[str]) -> None:
    """Raises InputError, with their positions, for two classes of the same name.

    Names are the same when they look so: blanks around them and the Unicode composition of a letter
    make no difference. Upper and lower case do.
    """
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        earlier = first.setdefault(unicodedata.normalize("NFC", name).strip(), number)
        if earlier != number:
            raise InputError(
                f"{source}: names[{number}] is names[{earlier}] again, {name}; give each class a "
                "name of its own, or join the two under one number"
            )


def _count(file: Path, content: Content) -> int | None:
    """`nc`, the number of classes, or None."""
    if content.get("nc") is None:
        return None
    count = whole_number(content["nc"])
    if not 1 <= count <= _MOST_CLASSES:
        raise InputError(
            f"data {file}: nc is {short(content['nc'])}, expected the number of classes"
        )
    return count


def _in_order(file: Path, names: dict[object, object]) -> list[object]:
    """The values of a map from number to name, by their numbers."""
    by_number: dict[int, object] = {}
    for key, name in names.items():
        number = whole_number(key)
        if number < 0:
            raise InputError(
                f"data {file}: names has the key {short(key)}, expected the number of a class, as "
                "in `0: NAME`"
            )
        if number in by_number:
            raise InputError(f"data {file}: names has the number {number} twice")
        by_number[number] = name
    if by_number.keys() != set(range(len(by_number))):
        raise InputError(f"data {file}: names must be numbered 0 to {len(names) - 1} without gaps")
    return [by_number[number] for number in range(len(by_number))]


def _names_of_file(file: Path, content: Content, name: str) -> tuple[str, list[str]]:
    """The lines of the file that `names` is, without blanks around them, and the file."""
    folders = [file.parent, root_folder(file, content)]
    listing = locate(name, [*folders, Path()] if is_data_file(file) else folders)
    if listing is None or not listing.is_file():
        raise InputError(
            f"data {file}: names is {short(name)}, expected a list of class names, or a file with "
            "a name a line"
        )
    lines = [line.strip() for line in read_text(listing).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise InputError(f"{listing}: no class names; expected a name a line")
    return str(listing), lines
