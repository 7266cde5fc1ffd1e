"""Darknet's obj.data: `classes = 3`, `train = data/train.txt`, `valid = ...`, `names = ...`, a key
a line."""

from pathlib import Path

from hvd_yolo.data.data_yaml import Content
from hvd_yolo.data.text_files import read_text
from hvd_yolo.errors import InputError

# What a data.yaml calls the same.
_KEYS = {"classes": "nc", "train": "train", "valid": "val", "val": "val", "validation": "val",
         "test": "test", "names": "names"}  # fmt: skip


def is_data_file(file: Path) -> bool:
    """Whether a file of this name is Darknet's."""
    return file.suffix.lower() == ".data"


def read_data_file(file: Path) -> Content:
    """The file's keys as a data.yaml would have them; keys that only Darknet uses are left out.

    Raises InputError, which names the line, for what is not `key = value` and for a key that is
    there twice.
    """
    content: Content = {}
    for number, text in enumerate(read_text(file).splitlines(), 1):
        line = text.partition("#")[0].strip()
        if not line:
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            raise InputError(f"{file}:{number}: expected `key = value`, as `train = train.txt`")
        known = _KEYS.get(key.lower())
        if known in content:
            raise InputError(f"{file}:{number}: the key {key!r} is there twice; remove one")
        if known and value:
            content[known] = value
    return content
