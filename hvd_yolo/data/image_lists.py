"""Lists of images: a path a line, absolute or from the list, from `path` of the data.yaml, or from
the working directory, in this order.

Backslashes part folders where no file of the name as written is there, and a leading `data/` that
is not there is passed over. Lines that begin with # are comments. Relative paths stay inside the
folder that they count from.
"""

import os
from pathlib import Path

from hvd_yolo.data.folder_names import FolderNames
from hvd_yolo.data.image_folders import is_image_name
from hvd_yolo.data.problems import ProblemLog
from hvd_yolo.data.text_files import LONGEST_PATH, inside, is_inside, read_text, spellings
from hvd_yolo.errors import SplitNotThere

# Folders that a path may count from, with the folder that it must not leave.
_Places = list[tuple[str, Path]]


def read_image_list(file: Path, root: Path, problems: ProblemLog) -> list[str]:
    """The images of a list that are there, in its order; the others are errors in `problems`.

    root: the folder of the data set. Raises InputError, which names the line, for a path that leads
    out of all folders it may count from, and SplitNotThere if no listed image is there.
    """
    places = _places(file, root)
    names = FolderNames()
    images: list[str] = []
    missing = ""
    for number, line in enumerate(read_text(file).splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        where = f"{file}:{number}"
        found = _find(name, places, names, where)
        if found is None and name.startswith("#"):
            continue
        if found is None:
            missing = missing or f"{where}: {name}"
            problems.add("listed images that do not exist", f"{where}: {name}", "error")
        elif not is_image_name(os.path.basename(found)):
            problems.add("listed files that are not images", f"{where}: {name}", "error")
        else:
            images.append(found)
    if missing and not images:
        folders = ", ".join(str(limit) for _, limit in places)
        raise SplitNotThere(
            f"data: no image that {file} lists exists; the first is {missing}; relative paths were "
            f"looked for in {folders}"
        )
    return images


def _places(file: Path, root: Path) -> _Places:
    limit = root if is_inside(root, file) else file.parent
    places = {os.path.abspath(file.parent): (str(file.parent), limit)}
    for folder in (root, Path.cwd()):
        places.setdefault(os.path.abspath(folder), (str(folder), folder))
    return list(places.values())


def _find(name: str, places: _Places, names: FolderNames, where: str) -> str | None:
    """The path of a listed image that exists, free of `..`, or None."""
    if len(name) > LONGEST_PATH:
        inside(places[0][1], Path(places[0][0], name), where)
    leads_out = not os.path.isabs(name)
    for spelling in spellings(name):
        for folder, limit in places:
            path = os.path.normpath(os.path.join(folder, spelling))
            if ".." in spelling and not os.path.isabs(name) and not is_inside(limit, Path(path)):
                continue
            leads_out = False
            if names.has(path):
                return path
    if leads_out:
        inside(places[0][1], Path(places[0][0], name), where)
    return None
