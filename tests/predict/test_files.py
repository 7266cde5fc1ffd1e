"""predict on pictures: what it reads, and that nothing is lost of it."""

import cv2
import pytest

from hvd_yolo.data.source_files import find_files
from hvd_yolo.errors import InputError
from tests.conftest import run_job
from tests.predict.conftest import save_picture, tree, write_checkpoint


def test_no_two_pictures_share_an_output(predict, tmp_path):
    names = ["one/img.jpg", "one/img.png", "one/two_img.jpg", "one_two/img.jpg", "two/img.jpg"]
    for seed, name in enumerate(names):
        save_picture(tmp_path / "in" / name, seed)
    told, entries = predict(tmp_path / "in", tmp_path / "out")
    assert "on 5 images" in told
    assert {entry["file_name"] for entry in entries} == set(names)
    assert tree(tmp_path / "out" / "images") == sorted(names)
    assert len(tree(tmp_path / "out" / "labels")) == 5
    told, entries = predict(f"{tmp_path}/in/*/img.jpg", tmp_path / "pattern")
    assert {entry["file_name"] for entry in entries} == {
        "one/img.jpg", "one_two/img.jpg", "two/img.jpg"
    }  # fmt: skip
    assert len(tree(tmp_path / "pattern" / "labels")) == 3


def test_predict_touches_none_of_its_input(weights, tmp_path):
    save_picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    before = {name: (tmp_path / name).read_bytes() for name in tree(tmp_path)}
    source = ("--source", str(tmp_path / "images"), "--output", str(tmp_path))
    done = run_job(1, ["-m", "hvd_yolo.predict", "--weights", str(weights), *source])
    assert done.returncode == 2
    assert "would be written over" in done.stderr
    assert {name: (tmp_path / name).read_bytes() for name in tree(tmp_path)} == before


def test_hidden_files_are_no_pictures_and_links_are_followed(predict, tmp_path):
    source = tmp_path / "in"
    save_picture(source / "a.jpg")
    save_picture(source / ".ipynb_checkpoints" / "a-checkpoint.jpg")
    (source / "._a.jpg").write_bytes(bytes((0, 5, 22, 7)))
    save_picture(tmp_path / "elsewhere" / "b.jpg")
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "loop").symlink_to(source)
    told, entries = predict(source, tmp_path / "out")
    assert "on 2 images: " in told
    assert {entry["file_name"] for entry in entries} == {"a.jpg", "linked/b.jpg"}


def test_a_pattern_does_not_run_in_circles(tmp_path):
    save_picture(tmp_path / "in" / "deep" / "a.jpg")
    (tmp_path / "in" / "deep" / "loop").symlink_to(tmp_path / "in")
    assert find_files(f"{tmp_path}/in/**/*.jpg").names == ["a.jpg"]
    assert find_files(f"{tmp_path}/in/*").names == ["a.jpg"]
    assert find_files(f"{tmp_path}/**/dee*").names == ["a.jpg"]


def test_other_formats_are_read_or_counted(predict, tmp_path):
    for name in ("a.jfif", "b.mpo", "c.png", "d.TIF"):
        save_picture(tmp_path / "in" / name.lower()).rename(tmp_path / "in" / name)
    for name in ("e.heic", "f.avif", "g.avif"):
        (tmp_path / "in" / name).write_bytes(b"\0\0\0\x18ftyp")
    (tmp_path / "in" / "notes.txt").touch()
    (tmp_path / "in" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    told, entries = predict(tmp_path / "in", tmp_path / "out")
    assert "on 4 images" in told
    assert "(4 more could not be read" in told
    assert {entry["file_name"] for entry in entries} == {"a.jfif", "b.mpo", "c.png", "d.TIF"}
    assert tree(tmp_path / "out" / "images") == ["a.jpg", "b.jpg", "c.png", "d.TIF"]
    for name in tree(tmp_path / "out" / "images"):
        assert cv2.imread(str(tmp_path / "out" / "images" / name)).shape == (48, 64, 3)
    problems = {
        problem.what.split(",")[0]: problem for problem in find_files(str(tmp_path / "in")).problems
    }
    assert problems[".avif files"].count == 2
    assert "convert them" in problems[".avif files"].what
    assert problems["files that are neither pictures nor videos"].count == 1


def test_a_16_bit_picture_is_drawn_on_in_8_bits(predict, tmp_path):
    (tmp_path / "in").mkdir()
    image = cv2.imread(str(save_picture(tmp_path / "a.png"))).astype("uint16") * 257
    cv2.imwrite(str(tmp_path / "in" / "a.png"), image)
    predict(tmp_path / "in", tmp_path / "out")
    drawn = cv2.imread(str(tmp_path / "out" / "images" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert (drawn.dtype, drawn.shape) == ("uint8", (48, 64, 3))


def test_a_list_names_files_from_where_it_lies_or_from_here(predict, tmp_path, monkeypatch):
    save_picture(tmp_path / "data" / "sub" / "a.jpg")
    save_picture(tmp_path / "b.jpg", 1)
    lines = ["# pictures", "sub\\a.jpg", "", "b.jpg", "gone/c.jpg", str(tmp_path / "b.jpg")]
    (tmp_path / "data" / "list.txt").write_text("\ufeff" + "\r\n".join(lines))
    monkeypatch.chdir(tmp_path)
    told, entries = predict("data/list.txt", tmp_path / "out")
    assert "on 2 images" in told
    assert {entry["file_name"] for entry in entries} == {"data/sub/a.jpg", "b.jpg"}
    problems = {problem.what: problem for problem in find_files("data/list.txt").problems}
    missing = problems["listed files that do not exist"]
    assert (missing.count, missing.examples) == (1, ["data/list.txt:5 gone/c.jpg"])
    assert "(1 more could not be read" in told


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no picture"),
        (lambda folder: (folder / "a.heic").touch(), r"no picture.*\.heic files.*convert them"),
        (lambda folder: (folder / "a.jpg").touch(), r"nothing can be read.*a\.jpg"),
        (
            lambda folder: (folder / "a.mp4").write_bytes(b"no video"),
            r"nothing can be read.*a\.mp4",
        ),
        (lambda folder: folder.rmdir(), "no such file or folder"),
    ],
)
def test_a_source_without_anything_readable_is_refused(predict, tmp_path, make, message):
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    with pytest.raises(InputError, match=message):
        predict(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "detections.json").exists()


def test_numbers_as_file_names_are_image_ids(predict, tmp_path):
    for number in (139, 285, 7):
        save_picture(tmp_path / "in" / f"{number:012}.jpg", number)
    _, entries = predict(tmp_path / "in", tmp_path / "out")
    assert {(e["image_id"], e["file_name"]) for e in entries} == {
        (n, f"{n:012}.jpg") for n in (139, 285, 7)
    }


def test_results_have_the_category_ids_of_the_checkpoint(tmp_path, predict):
    save_picture(tmp_path / "a.png")
    file = write_checkpoint(tmp_path / "sparse.pt", (5, 17, 90))
    _, entries = predict(tmp_path / "a.png", tmp_path / "out", "--weights", file)
    assert {entry["category_id"] for entry in entries} <= {5, 17, 90}
    _, plain = predict(tmp_path / "a.png", tmp_path / "plain")
    ids = dict(zip((1, 2, 3), (5, 17, 90), strict=True))
    assert [ids[entry["category_id"]] for entry in plain] == [e["category_id"] for e in entries]
