"""Mutations of the files of any data set; see label_mutations for what they are."""

import cv2

from tests.data.label_mutations import ANY, KEPT, LOST, pick
from tests.data.mutations import bytes_mutated
from tests.data.small_files import picture

IMAGES = {".jpg", ".jpeg", ".png"}


def image_files(folder):
    """The images of the train split; of a format with a copy as its val split, both."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGES)


def most(files):
    """All but those of one image."""
    return [file for file in files if file.stem != files[0].stem]


def hidden_files(rng, folder, pictures):
    """What macOS, notebooks and file managers leave beside images and labels."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            (file.parent / f"._{file.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
            copies = file.parent / ".ipynb_checkpoints"
            copies.mkdir(exist_ok=True)
            (copies / f"{file.stem}-checkpoint{file.suffix}").write_bytes(file.read_bytes())


def other_files(rng, folder, pictures):
    """Notes and archives; none is an image or label."""
    for place in {file.parent for file in image_files(folder)}:
        for name in ("Thumbs.db", "desktop.ini", "notes.md", "images.zip"):
            (place / name).write_bytes(b"\0\1\2")


def image_suffixes(rng, folder, pictures):
    suffix = pick(rng, [".jfif", ".mpo", ".heic", ".avif", ".gif", ".JPG", ".jp2", "", ".jpg.bak"])
    for file in most(image_files(folder)):
        file.rename(file.with_name(file.stem + suffix))


def images_cut_off(rng, folder, pictures):
    share = rng.uniform(0, 0.5)
    for file in most(image_files(folder)):
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])


def images_of_git_lfs(rng, folder, pictures):
    for file in most(image_files(folder)):
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def images_folder_renamed(rng, folder, pictures):
    for place in {file.parent for file in image_files(folder)}:
        if place.name != "train" or place.parent != folder:
            place.rename(place.with_name(pick(rng, ["img", "Images", "pictures", "x"])))
        else:
            place.rename(place.with_name("training"))


def all_in_a_deeper_folder(rng, folder, pictures):
    """As an archive is unpacked into a folder of its own."""
    deeper = folder / "unpacked"
    deeper.mkdir()
    for place in sorted(folder.iterdir()):
        if place.is_dir() and place != deeper:
            place.rename(deeper / place.name)


def a_byte_or_more(rng, folder, pictures):
    """Of one text file, which holds fewer than half of the objects or is no longer what it was."""
    kinds = {".txt", ".yaml", ".json", ".xml", ".data", ".names"}
    files = sorted(f for f in folder.rglob("*") if f.suffix in kinds and "valid" not in f.parts)
    file = files[rng.integers(len(files))]
    data = file.read_bytes()
    if file.name == "train.txt":
        # A line that is taken out of a list leaves another valid list.
        place = int(rng.integers(len(data)))
        data = data[:place] + bytes([rng.integers(33, 127)]) + data[place + 1 :]
        file.write_bytes(data)
    else:
        file.write_bytes(bytes_mutated(rng, data))


FILES = {
    hidden_files: KEPT, other_files: KEPT, image_suffixes: KEPT, images_cut_off: LOST,
    images_of_git_lfs: LOST, images_folder_renamed: KEPT, all_in_a_deeper_folder: KEPT,
    a_byte_or_more: ANY,
}  # fmt: skip


def images_deleted(rng, folder, pictures):
    """Whose entries, lines or XML stay."""
    for file in most(image_files(folder)):
        file.unlink()


def images_resized(rng, folder, pictures):
    """To other sides than their entries say."""
    sides = pick(rng, [(2, 2), (0.5, 0.5), (2, 1), (1.5, 1.5)])
    for file in image_files(folder):
        stored = cv2.imread(str(file), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        height, width = stored.shape[:2]
        resized = cv2.resize(stored, (round(width * sides[0]), round(height * sides[1])))
        cv2.imwrite(str(file), resized)


def other_images(rng, folder, pictures):
    """Of equal names and another size."""
    for file in image_files(folder):
        cv2.imwrite(str(file), picture(97, 61))


# Where images are named one by one, and where their sizes are.
REFERENCES = {images_deleted: LOST}
SIZES = {images_resized: LOST, other_images: LOST}
