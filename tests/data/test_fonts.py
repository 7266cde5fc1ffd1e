"""Names in any script are legible in drawn pictures and in plots."""

import importlib.util
import logging

import cv2
import numpy as np
import pytest

from hvd_yolo.data import fonts
from hvd_yolo.data.drawing import draw_box, draw_text, text_size

needs_fonts = pytest.mark.skipif(
    importlib.util.find_spec("noto_cjk_sans_otc") is None,
    reason="the font of the extra `plots` is not installed",
)

# Two names of the same number of characters in each script.
PAIRS = [
    ("红细胞", "白血球"), ("カメラ", "メガネ"), ("사람", "나무"), ("Собака", "Машина"),
    ("αβγ", "δεζ"), ("كلب", "قطة"), ("כלב", "עץל"),
]  # fmt: skip


def drawn(text):
    """The text in white on black."""
    picture = np.zeros((60, 400, 3), np.uint8)
    draw_text(picture, text, (5, 40), 0.8, (255, 255, 255))
    return picture


@needs_fonts
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_names_differ_in_a_picture_from_each_other_and_from_missing_glyphs(one, other):
    boxes = drawn("\U0010ffff" * len(one))
    assert drawn(one).max() == 255
    for text in (other, "?" * len(one), "?" * len(one.encode())):
        assert (drawn(one) != drawn(text)).any(), text
    assert (drawn(one) != boxes).any()
    for file, part in fonts.fonts_for(f"{one} 0.87"):
        font = fonts.opened(file, 24)
        # The box of this very font.
        for char in part.strip():
            assert bytes(font.getmask(char)) != bytes(font.getmask(fonts.NOWHERE))


@needs_fonts
def test_scripts_in_one_name_are_drawn_with_the_font_of_each():
    parts = fonts.fonts_for(" 红 כלב")
    assert [part.strip() for _, part in parts] == ["红", "כלב"]
    assert len({file for file, _ in parts}) == 2
    assert text_size("红 כלב", 0.8)[0] > text_size("红", 0.8)[0]


@needs_fonts
def test_a_name_is_drawn_at_the_edges_of_a_picture():
    for left, top in ((-30, -10), (50, 40), (0, 0), (30, 44)):
        picture = np.zeros((48, 64, 3), np.uint8)
        draw_box(picture, (left, top, left + 30, top + 20), "红细胞红细胞红细胞", (255, 90, 0), 2)
        assert picture.any()


def test_ascii_is_drawn_as_opencv_does():
    expected = np.zeros((60, 400, 3), np.uint8)
    cv2.putText(
        expected, "car 0.87", (5, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 1,
        cv2.LINE_AA,
    )  # fmt: skip
    assert (drawn("car 0.87") == expected).all()


def test_a_script_without_a_font_is_told_once_with_the_remedy(monkeypatch, caplog):
    """On a machine that has no font at all."""
    monkeypatch.setattr(fonts, "candidates", lambda: iter(()))
    fonts.font_of.cache_clear()
    with caplog.at_level(logging.WARNING):
        for text in ("𐎀𐎁", "𐎂"):
            fonts.tell_missing(text)
            assert drawn(text).shape == (60, 400, 3)
    fonts.font_of.cache_clear()
    assert len(caplog.records) == 1
    assert "no font here has the UGARITIC characters" in caplog.text
    assert "pip install 'hvd_yolo[plots]'" in caplog.text


@needs_fonts
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_names_differ_in_a_plot(one, other, recwarn):
    """In a legend, and at the ticks of an axis."""
    pytest.importorskip("matplotlib")
    figures = [plot(text) for text in (one, other, "\U0010ffff" * len(one))]
    assert (figures[0] != figures[1]).any()
    assert (figures[0] != figures[2]).any()
    missing = [str(w.message) for w in recwarn if "missing from font" in str(w.message)]
    assert not [text for text in missing if "1114111" not in text]


def plot(name):
    """A small figure with the name in a legend and at a tick; pixels."""
    from hvd_yolo.report.plots.canvas import new_figure, png

    figure = new_figure(2, 2)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label=name)
    axes.set_yticks([0.5], [name])
    axes.legend()
    return cv2.imdecode(np.frombuffer(png(figure), np.uint8), 0)[:300, :300]
