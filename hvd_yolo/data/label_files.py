"""Where the label files of images lie: under .../labels/... for an image under .../images/..., or
beside it."""

import os

from hvd_yolo.data.folder_names import FolderNames
from hvd_yolo.data.image_folders import is_hidden

# Text files that lie among labels and are none.
_NO_LABELS = {
    "classes.txt", "labels.txt", "license.txt", "notes.txt", "obj_names.txt",
    "predefined_classes.txt", "requirements.txt", "test.txt", "train.txt", "val.txt", "valid.txt",
}  # fmt: skip


class LabelFiles:
    """Finds the label files of a split. Every folder is listed once.

    sharing: the images whose label file another image had before.
    """

    def __init__(self) -> None:
        self.sharing: list[str] = []
        self._names = FolderNames()
        self._folders: dict[str, str] = {}
        # By folder, the label files with their images.
        self._used: dict[str, dict[str, str]] = {}
        self._listed: list[str] = []
        self._is_whole = False

    def of(self, image: str) -> tuple[str, bool]:
        """The label file that an image has or should have, and whether it is there."""
        folder, _, name = image.rpartition("/")
        labels = self.folder_of(folder)
        there, stem = self._names.of(labels), os.path.splitext(name)[0]
        label = f"{stem}.txt"
        if label not in there and f"{stem}.TXT" in there:
            label = f"{stem}.TXT"
        is_there = label in there
        if self._used.setdefault(labels, {}).setdefault(label, image) != image and is_there:
            self.sharing.append(image)
        return (f"{labels}/{label}" if labels else label), is_there

    def folder_of(self, folder: str) -> str:
        """The folder with the labels of a folder of images: the last `images` of the path replaced
        by `labels`, if there is such a folder; otherwise the folder itself."""
        if folder not in self._folders:
            twins = _twins(folder)
            there = [twin for twin in twins if os.path.isdir(twin)]
            self._folders[folder] = (there or [folder])[0]
        return self._folders[folder]

    def list_below(self, folder: str) -> None:
        """Lists the labels of a folder of images, and of all below it, at once."""
        labels = self.folder_of(folder)
        self._is_whole = True
        if labels != folder:
            self._listed += self._names.below(labels)

    def strays(self) -> list[str]:
        """Label files that no image has, sorted; to be asked when all images are known. None
        without list_below(): then other images, of which nothing is known, may have them."""
        if not self._is_whole:
            return []
        return sorted(
            f"{place}/{name}"
            for place in {*self._listed, *self._used}
            for name in self._names.of(place) - self._used.get(place, {}).keys()
            if is_label_name(name)
        )


def is_label_name(name: str) -> bool:
    """Whether a file of this name can be a label file."""
    lower = name.lower()
    is_text = lower.endswith(".txt") and not is_hidden(name)
    return is_text and lower not in _NO_LABELS and not lower.startswith("readme")


def expected_file(image: str) -> str:
    """The first label file that is looked for."""
    folder, _, name = image.rpartition("/")
    labels = [*_twins(folder), folder][0]
    return os.path.join(labels, f"{os.path.splitext(name)[0]}.txt")


def _twins(folder: str) -> list[str]:
    """The folder with its last `images`, in any case, or Darknet's `JPEGImages`, replaced by
    `labels`."""
    parts = folder.split("/")
    for i in range(len(parts) - 1, -1, -1):
        if parts[i].lower() in ("images", "jpegimages"):
            same_case = {"Images": "Labels", "IMAGES": "LABELS"}.get(parts[i], "labels")
            names = dict.fromkeys((same_case, "labels", "Labels", "LABELS"))
            return ["/".join([*parts[:i], name, *parts[i + 1 :]]) for name in names]
    return []
