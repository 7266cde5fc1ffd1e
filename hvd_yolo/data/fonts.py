"""Fonts that have the glyphs of a text: those that packages of this environment bring, then those
installed on the machine."""

import importlib.util
import logging
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageFont

logger = logging.getLogger(__name__)

REMEDY = (
    "pip install 'hvd_yolo[plots]' brings Chinese, Japanese and Korean, `apt-get install "
    "fonts-noto` all of Unicode"
)

# Fonts inside packages: DejaVu Sans (Latin, Greek, Cyrillic, Arabic, Hebrew, ...) of matplotlib,
# and Noto Sans CJK (Chinese, Japanese, Korean). Files are read, no code of the packages is run.
_IN_PACKAGES = (
    ("matplotlib", "mpl-data/fonts/ttf/DejaVuSans.ttf"),
    ("noto_cjk_sans_otc", "NotoSansCJK-Regular.ttc"),
)

# Where Linux, macOS and Windows keep fonts.
_FOLDERS = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts",
    "/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts", "C:/Windows/Fonts",
)  # fmt: skip
_SUFFIXES = (".ttf", ".ttc", ".otf")

# They show the box of a script, or nothing, for each character.
_NO_FONTS = ("lastresort", "adobeblank")

# Sans-serif fonts that cover much of Unicode come first, then whatever is called regular.
_PREFERRED = (
    "dejavusans.ttf", "notosanscjk-regular", "notosans-regular", "wqy-microhei", "wqy-zenhei",
    "sourcehansans", "droidsansfallback", "pingfang", "applesdgothic", "hiragino", "arial unicode",
    "msyh", "yugoth", "malgun", "simhei", "arial.ttf", "segoeui.ttf", "tahoma",
)  # fmt: skip

# What no font has: a noncharacter, drawn as the box for a missing glyph.
NOWHERE = "\U0010ffff"


def fonts_for(text: str) -> list[tuple[Path | None, str]]:
    """Return the text in parts, each with the font file that has its characters: one part, where
    one font has all of them. None goes with characters that no font has."""
    shown = _shown(text)
    for file in dict.fromkeys(font_of(char) for char in sorted(shown)):
        if file is not None and all(has_glyph(file, char) for char in shown):
            return [(file, text)]
    parts: list[tuple[Path | None, str]] = []
    # Blanks go with what is before them, or at the start with what comes first.
    file = next((font_of(char) for char in text if char in shown), None)
    for char in text:
        file = font_of(char) if char in shown else file
        if parts and parts[-1][0] == file:
            parts[-1] = (file, parts[-1][1] + char)
        else:
            parts.append((file, char))
    return parts


def tell_missing(text: str) -> None:
    """Log, once for each script, that a picture cannot show characters of a text, and the
    remedy."""
    for char in sorted(_shown(text)):
        if font_of(char) is None:
            _tell_missing(unicodedata.name(char, "unknown").split()[0])


@cache
def _tell_missing(script: str) -> None:
    logger.warning("no font here has the %s characters, shown as ? or boxes: %s", script, REMEDY)


@cache
def font_of(char: str) -> Path | None:
    """Return the first font that has a character, or None."""
    return next((file for file in candidates() if has_glyph(file, char)), None)


@lru_cache(maxsize=1 << 16)
def has_glyph(file: Path, char: str) -> bool:
    """Return whether a font draws a character otherwise than one that no font has."""
    font = opened(file, 24)
    return font is not None and _drawn(font, char) != _missing_glyph(file)


@lru_cache(maxsize=64)
def opened(file: Path, size: int) -> ImageFont.FreeTypeFont | None:
    """Return a font at a size in pixels; None where the file is no font that can be scaled."""
    try:
        return ImageFont.truetype(str(file), size)
    except OSError:
        return None


def candidates() -> Iterator[Path]:
    """Yield all fonts, those of packages first; folders are searched when it comes to them."""
    yield from _of_packages()
    yield from _installed()


@lru_cache(maxsize=1)
def _of_packages() -> tuple[Path, ...]:
    files = []
    for package, name in _IN_PACKAGES:
        found = importlib.util.find_spec(package)
        if found is not None and found.submodule_search_locations:
            files += sorted(Path(found.submodule_search_locations[0]).glob(name))
    return tuple(file for file in files if "Italic" not in file.name)


@lru_cache(maxsize=1)
def _installed() -> tuple[Path, ...]:
    folders = [Path(sys.prefix, "share/fonts"), *(Path(name).expanduser() for name in _FOLDERS)]
    files = [
        file
        for folder in folders
        if folder.is_dir()
        for file in folder.rglob("*")
        if file.suffix.lower() in _SUFFIXES and not file.name.lower().startswith(_NO_FONTS)
    ]
    return tuple(sorted(files, key=_rank))


def _rank(file: Path) -> tuple[int, bool, str]:
    name = file.name.lower()
    places = [place for place, word in enumerate(_PREFERRED) if name.startswith(word)]
    is_plain = not any(word in name for word in ("bold", "italic", "oblique", "mono", "serif"))
    return min(places, default=len(_PREFERRED)), not is_plain, str(file)


def _shown(text: str) -> set[str]:
    """The characters that need a glyph: no blanks, no marks that join or direct others."""
    return {char for char in text if char.isprintable() and not char.isspace()}


def _drawn(font: ImageFont.FreeTypeFont, char: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(char, mode="L")
    return mask.size, bytes(mask)


@cache
def _missing_glyph(file: Path) -> tuple[tuple[int, int], bytes]:
    return _drawn(opened(file, 24), NOWHERE)
