"""The data.yaml of a data set, with every scalar as the text that was typed.

YAML 1.1 turns yes, no, on, 010, 1e3, 1:30 and dates into other values, and a class may have any of
these names. So no scalar is resolved: what must be a number is read as one where it is used.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hvd_yolo.data.text_files import locate, read_text
from hvd_yolo.errors import InputError, MissingSplit, SplitNotThere

_NULLS = {"", "~", "null", "Null", "NULL"}
_SCALARS = ("binary", "bool", "float", "int", "merge", "null", "str", "timestamp", "value")
# Other names of the validation split.
_VAL_KEYS = ("validation", "valid")
_MOST_KEYPOINTS = 10_000

Content = dict[str, Any]


class _DuplicateKey(yaml.MarkedYAMLError):
    """A mapping with the same key twice."""


class _TextLoader(yaml.SafeLoader):
    """Keeps scalars as text and refuses a key that a mapping has twice."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """The mapping as it is written, before `<<` merges others into it."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                if key.value in seen:
                    raise _DuplicateKey(problem=key.value, problem_mark=key.start_mark)
                seen.add(key.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merges; each key once, or mappings merged into each other again and again fill the
        memory."""
        super().flatten_mapping(node)
        pairs = {
            key.value if isinstance(key, yaml.ScalarNode) else id(key): (key, value)
            for key, value in node.value
        }
        node.value = list(pairs.values())


for _scalar in _SCALARS:
    _TextLoader.add_constructor(f"tag:yaml.org,2002:{_scalar}", _TextLoader.construct_scalar)


def read_yaml(file: Path) -> Content | None:
    """The keys of the file: texts, and lists and maps of texts; None where the value is null.

    None if the file holds no map. Raises InputError for what is not YAML and for a key that is
    there twice.
    """
    try:
        content = yaml.load(read_text(file), Loader=_TextLoader)
    except _DuplicateKey as error:
        line = error.problem_mark.line + 1
        raise InputError(
            f"data {file}:{line}: the key {error.problem!r} is there twice; remove one of the two"
        ) from error
    # RecursionError: brackets in brackets.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"data {file}: not a YAML file: {error}") from error
    if not isinstance(content, dict):
        return None
    found = {
        key: None if isinstance(value, str) and value in _NULLS else value
        for key, value in content.items()
    }
    for key in _VAL_KEYS:
        if not found.get("val") and found.get(key):
            found["val"] = found[key]
    return found


def root_folder(file: Path, content: Content) -> Path:
    """The folder that `path` of a data.yaml names, by itself or from where the file lies.

    Published files name the data set's folder from elsewhere (`path: ../datasets/coco8`): where
    that is not there and the file lies in a folder of this name, it is that folder.
    """
    folder = file.parent / text_of(file, "path", content.get("path") or ".")
    own = Path(os.path.abspath(file)).parent
    return file.parent if own.name == folder.name and not folder.exists() else folder


def split_sources(file: Path, content: Content, split: str, expected: str) -> list[str]:
    """What a data.yaml names under `split:`, a text or a list of these; raises MissingSplit, with
    what is expected there."""
    sources = content.get(split)
    if not sources:
        raise MissingSplit(f"data {file}: no {split} split; expected {expected} under `{split}:`")
    entries = sources if isinstance(sources, list) else [sources]
    return [text_of(file, split, entry) for entry in entries]


def locate_source(file: Path, folders: Sequence[Path], split: str, source: str) -> Path:
    """The folder or file that `source` of a split is, counted from one of `folders`; raises
    SplitNotThere."""
    found = locate(source, folders)
    if found is None:
        raise SplitNotThere(
            f"data {file}: {split} is {source}, but {folders[0] / source} does not exist"
        )
    return found


def keypoint_shape(file: Path, content: Content) -> tuple[int, int] | None:
    """`kpt_shape: [K, D]`: the number of keypoints of an object, and 2 (x, y) or 3 (x, y,
    visibility) numbers of each; None where there is no such key."""
    shape = content.get("kpt_shape")
    if shape is None:
        return None
    if isinstance(shape, list) and len(shape) == 2:
        numbers = [whole_number(part) for part in shape]
        if 1 <= numbers[0] <= _MOST_KEYPOINTS and numbers[1] in (2, 3):
            return numbers[0], numbers[1]
    raise InputError(
        f"data {file}: kpt_shape is {short(shape)}, expected [K, 2] or [K, 3]: the number of "
        "keypoints of an object, and x y or x y visibility of each"
    )


def whole_number(value: object) -> int:
    """The number of decimal digits that a text holds, quoted or not; -1 if it holds none."""
    is_number = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10
    return int(value) if is_number else -1


def text_of(file: Path, key: str, value: object) -> str:
    """A value of a data.yaml that must be a text.

    Nothing else is: a few hundred bytes of aliases can stand for a list whose text fills the
    memory.
    """
    if not isinstance(value, str):
        raise InputError(f"data {file}: {key} is {short(value)}, expected a text")
    return value


def short(value: object) -> str:
    """What a value is, briefly."""
    if isinstance(value, str):
        return repr(value if len(value) < 60 else f"{value[:60]}...")
    if isinstance(value, list) and all(isinstance(part, str) for part in value[:5]):
        more = ", ..." if len(value) > 5 else ""
        return f"[{', '.join(part[:20] for part in value[:5])}{more}]"
    return f"a {type(value).__name__}"
