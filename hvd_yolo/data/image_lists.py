"""Lists of images: a path a line, absolute or from the list, from `path` of the data.yaml, or from
the working directory, in this order.

Backslashes part folders where no file of the name as written is there, and a leading `data/` that
is not there is passed over. Lines that begin with # are comments. Relative paths stay inside the
folder that they count from.
"""

import os
from pathlib import Path
from typing import NamedTuple

from hvd_yolo.data.folder_names import FolderNames
from hvd_yolo.data.image_folders import is_image_name
from hvd_yolo.data.problems import ProblemLog
from hvd_yolo.data.text_files import LONGEST_PATH, inside, is_inside, read_text, spellings
from hvd_yolo.errors import SplitNotThere


class _Place(NamedTuple):
    """A folder that a path may count from, the same as an absolute path, and the folder that the
    path must not leave."""

    folder: str
    absolute: str
    limit: Path


def read_image_list(file: Path, root: Path, problems: ProblemLog) -> list[str]:
    """The images of a list that are there, in its order; the others are errors in `problems`.

    root: the folder of the data set. Raises InputError, which names the line, for a path that leads
    out of all folders it may count from, and SplitNotThere if no listed image is there.
    """
    places = _places(file, root)
    names = FolderNames()
    images: list[str] = []
    sources: dict[str, str] = {}
    missing = ""
    for number, line in enumerate(read_text(file).splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        where = f"{file}:{number}"
        found, folder = _find(name, places, names, where) or (None, "")
        if found is None and name.startswith("#"):
            continue
        if found is None:
            missing = missing or f"{where}: {name}"
            problems.add("listed images that do not exist", f"{where}: {name}", "error")
        elif not is_image_name(os.path.basename(found)):
            problems.add("listed files that are not images", f"{where}: {name}", "error")
        else:
            images.append(found)
            if folder:
                sources.setdefault(folder, where)
    if len(sources) > 1:
        told = ", ".join(f"{folder} ({where})" for folder, where in sources.items())
        problems.add("lists whose paths count from more than one folder", f"{file}: {told}")
    if missing and not images:
        folders = ", ".join(place.folder for place in places)
        raise SplitNotThere(
            f"data: no image that {file} lists exists; the first is {missing}; relative paths were "
            f"looked for in {folders}"
        )
    return images


def _places(file: Path, root: Path) -> list[_Place]:
    limit = root if is_inside(root, file) else file.parent
    places: dict[str, _Place] = {}
    for folder, boundary in ((file.parent, limit), (root, root), (Path.cwd(), Path.cwd())):
        absolute = os.path.abspath(folder)
        places.setdefault(absolute, _Place(str(folder), absolute, boundary))
    return list(places.values())


def _find(
    name: str, places: list[_Place], names: FolderNames, where: str
) -> tuple[str, str] | None:
    """The path of a listed image that exists, free of `..`, and the folder it counts from, or
    None."""
    first = places[0]
    if len(name) > LONGEST_PATH:
        inside(first.limit, Path(first.folder, name), where)
    if os.path.isabs(name):
        path = os.path.normpath(name)
        return (path, "") if names.has(path) else None
    is_inside_any = False
    for spelling in spellings(name):
        for folder, absolute, limit in places:
            path = os.path.normpath(os.path.join(folder, spelling))
            if ".." in spelling and not is_inside(limit, Path(path)):
                continue
            is_inside_any = True
            if names.has(path):
                return path, absolute
    if not is_inside_any:
        inside(first.limit, Path(first.folder, name), where)
    return None
