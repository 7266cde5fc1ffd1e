"""Pieces of the page, each a string of HTML that needs no other file."""

import base64
import re
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from hvd_yolo.report.plots.canvas import Plot
from hvd_yolo.report.plots.pictures import Gallery
from hvd_yolo.report.style import CSS

_JPEG_QUALITY = 82


def document(title: str, body: str) -> str:
    """The whole page; the empty icon keeps browsers from asking a server for one."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n{body}\n"
        "</body>\n</html>\n"
    )


def section(anchor: str, title: str, content: str) -> str:
    """A part of the page with its heading; empty without content."""
    heading = f'<h2 id="{anchor}">{escape(title)}</h2>'
    return f"<section>{heading}\n{content}</section>\n" if content else ""


def navigation(sections: Sequence[tuple[str, str, str]]) -> str:
    """Links to the sections (anchor, title, content) that have content."""
    links = (f'<a href="#{a}">{escape(title)}</a>' for a, title, content in sections if content)
    return f'<nav aria-label="Sections">{"".join(links)}</nav>'


def paragraphs(texts: Sequence[str]) -> str:
    """A paragraph for each text that is not empty."""
    return "".join(f"<p>{escape(text)}</p>\n" for text in texts if text)


def key_numbers(pairs: Sequence[tuple[str, str]]) -> str:
    """What is to be seen first: names and values."""
    cells = (f"<div><dt>{escape(n)}</dt><dd>{escape(v)}</dd></div>" for n, v in pairs)
    return f'<dl class="numbers">{"".join(cells)}</dl>'


def plots(found: Sequence[Plot]) -> str:
    """Plots in a grid."""
    return f'<div class="grid">{"".join(map(_plot, found))}</div>\n' if found else ""


def gallery(found: Gallery) -> str:
    """Photographs with the key of their colours."""
    chips = "".join(
        f'<li><span style="background:#{r:02x}{g:02x}{b:02x}"></span>{escape(text)}</li>'
        for (b, g, r), text in found.key
    )
    is_wide = all(photo.image.shape[1] > 1.5 * photo.image.shape[0] for photo in found.photos)
    figures = "".join(
        f"<figure>{_image(_jpeg(photo.image), 'jpeg', f'{found.title}: {photo.caption}')}"
        f"<figcaption>{escape(photo.caption)}</figcaption></figure>"
        for photo in found.photos
    )
    return (
        f'<h3>{escape(found.title)}</h3>\n<p class="quiet">{escape(found.caption)}</p>\n'
        f'<ul class="key">{chips}</ul>\n'
        f'<div class="photos{" pairs" if is_wide else ""}">{figures}</div>\n'
    )


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    best: frozenset[tuple[int, int]] = frozenset(),
    label: str = "",
) -> str:
    """A table that scrolls in a box of its own; the first column holds names, cells of numbers are
    set to the right. best: rows and columns of the cells to stress."""
    is_number = [
        place > 0 and all(_is_number(row[place]) for row in rows) for place in range(len(head))
    ]
    heads = "".join(
        f'<th scope="col"{_classes(right)}>{escape(text)}</th>'
        for text, right in zip(head, is_number, strict=True)
    )
    lines = "".join(
        "<tr>"
        + "".join(
            f"<td{_classes(is_number[place], (number, place) in best)}>{escape(text)}</td>"
            for place, text in enumerate(row)
        )
        + "</tr>\n"
        for number, row in enumerate(rows)
    )
    named = f' role="region" tabindex="0" aria-label="{escape(label)}"' if label else ""
    return (
        f'<div class="card"><div class="scroll"{named}><table><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>{lines}</tbody></table></div></div>\n"
    )


def folded(summary: str, content: str) -> str:
    """Content that is shown when its summary is clicked on."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>\n"


def verbatim(text: str) -> str:
    """Text as it is, in lines that scroll."""
    return f"<pre>{escape(text)}</pre>"


def _plot(found: Plot) -> str:
    image = _image(found.png, "png", found.alt)
    if found.shape in ("wide", "tall"):
        region = f'role="region" tabindex="0" aria-label="{escape(found.title)}"'
        image = f'<div class="scroll" {region}>{image}</div>'
    caption = f"<p>{escape(found.caption)}</p>" if found.caption else ""
    classes = f"plot {found.shape}".strip()
    return f'<figure class="{classes}"><h3>{escape(found.title)}</h3>{image}{caption}</figure>\n'


def _image(content: bytes, kind: str, alt: str) -> str:
    data = base64.b64encode(content).decode("ascii")
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{data}">'


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


def _classes(is_number: bool, is_best: bool = False) -> str:
    names = " ".join(["number"] * is_number + ["best"] * is_best)
    return f' class="{names}"' if names else ""


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?|-?[\d,]+(\.\d+)?(e[-+]\d+)?%?|\d+:\d\d:\d\d", text) is not None
