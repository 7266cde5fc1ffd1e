"""Where the outputs of predict go."""

import pytest

from hvd_yolo.data.sources import Place
from hvd_yolo.errors import InputError
from hvd_yolo.predict.output_names import output_names, refuse_output


def names_of(*places):
    names = output_names([Place(*place) if isinstance(place, tuple) else Place(place, 0)
                          for place in places])  # fmt: skip
    return [name.image for name in names], [name.label for name in names]


def test_the_tree_of_the_sources_is_that_of_the_outputs():
    assert names_of("b.jpg", "a/b.jpg", "a_b.jpg") == (
        ["b.jpg", "a/b.jpg", "a_b.jpg"],
        ["b.txt", "a/b.txt", "a_b.txt"],
    )


def test_a_label_says_whose_it_is():
    assert names_of("x.jpg", "x.png", "x_jpg.jpg", "y.png") == (
        ["x.jpg", "x.png", "x_jpg.jpg", "y.png"],
        ["x_jpg_2.txt", "x_png.txt", "x_jpg.txt", "y.txt"],
    )


def test_what_opencv_cannot_write_becomes_a_jpeg_of_another_name():
    assert names_of("x.jfif", "x.jpg", "x.mpo", "y.mpo", "z")[0] == [
        "x_jfif.jpg", "x.jpg", "x_mpo.jpg", "y.jpg", "z.jpg",
    ]  # fmt: skip


def test_frames_have_the_name_of_their_video():
    places = [("a.avi", 1), ("a.mp4", 1), ("a.mp4", 2), ("a_000002.jpg", 0)]
    images, labels = names_of(*places)
    assert images == ["a_000001.jpg", "a_mp4_000001.jpg", "a_mp4_000002.jpg", "a_000002.jpg"]
    assert len(set(labels)) == 4


def test_upper_and_lower_case_are_one():
    for names in names_of("A.jpg", "a.jpg", "a.JPG", "B/x.png", "b/x.png", "e\u0301.png", "é.png"):
        assert len({name.casefold() for name in names}) == 7


def test_a_file_is_no_folder():
    images, labels = names_of("a.mpo", "a.jpg/b.jpg", "c.jpg", "c.txt/d.jpg")
    assert "a.jpg" not in images
    assert "c.txt" not in labels


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("data/images", "data"),
        ("data/images/train", "data"),
        ("data", "data"),
        ("data", "data/runs"),
        ("data/images", "data/images/../../data"),
        ("data/pictures", "data"),
        ("data/images", "link"),
        ("link/images", "data"),
    ],
)
def test_an_output_over_a_source_is_refused(tmp_path, source, output):
    for folder in ("images/train", "labels", "pictures"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    file = tmp_path / "data" / "images" / "train" / "a.jpg"
    file.touch()
    (tmp_path / "data" / "labels" / "a.txt").touch()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(InputError, match=r"output .*(written over|lies in|there already)"):
        refuse_output(tmp_path / output, [file], tmp_path / source, is_tree=True)


def test_results_of_an_earlier_run_are_not_mixed_with(tmp_path):
    (tmp_path / "notes.txt").touch()
    refuse_output(tmp_path, [], tmp_path / "elsewhere", is_tree=True)
    (tmp_path / "detections.json").touch()
    with pytest.raises(InputError, match=r"detections.json is there already"):
        refuse_output(tmp_path, [], tmp_path / "elsewhere", is_tree=True)
