"""What lies in folders, each of which is asked once: a question per file is slow on a network."""

import os

from hvd_yolo.data.image_folders import is_hidden, names_in


class FolderNames:
    """The names in folders, hidden ones included, by the folder's path."""

    def __init__(self) -> None:
        self._known: dict[str, set[str]] = {}

    def of(self, folder: str) -> set[str]:
        """Those of a folder; none if it is not there."""
        names = self._known.get(folder)
        if names is None:
            names = self._known[folder] = set(names_in(folder or "."))
        return names

    def below(self, folder: str) -> list[str]:
        """The folder and those below it that are not hidden, all of which are listed now."""
        found = []
        for place, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if not is_hidden(name)]
            self._known[place] = {*folders, *files}
            found.append(place)
        return found

    def has(self, path: str) -> bool:
        """Whether there is a file or folder of this path; it ends in no slash."""
        folder, _, name = path.rpartition("/")
        return name in self.of(folder or "/" * path.startswith("/"))
