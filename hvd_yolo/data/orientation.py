"""Boxes that are turned with their image, as EXIF's orientation 5 to 8 turns it: sides change
places. 2 to 4 keep the size and are no concern of the boxes: annotators see the displayed image."""

import numpy as np

# Where boxes are turned.
TURNED_REMEDY = "`data convert --to coco` writes annotations of the images as they are displayed"

# By which a turned image is turned back.
_INVERSE = {5: 5, 6: 8, 7: 7, 8: 6}


def turn_boxes(boxes: np.ndarray, orientation: int, width: float, height: float) -> np.ndarray:
    """Boxes (N, 4) xyxy of a stored image of width x height pixels, in the displayed image of
    height x width. orientation: 5 to 8 (EXIF 2.32, section 4.6.4, tag 0x0112)."""
    x1, y1, x2, y2 = boxes.T
    # Where row 0 and column 0 of the stored image are displayed: 5 left and top, 6 right and top,
    # 7 right and bottom, 8 left and bottom.
    is_right, is_bottom = orientation in (6, 7), orientation in (7, 8)
    lefts, rights = (height - y2, height - y1) if is_right else (y1, y2)
    tops, bottoms = (width - x2, width - x1) if is_bottom else (x1, x2)
    return np.stack((lefts, tops, rights, bottoms), axis=1)


def turn_back(boxes: np.ndarray, orientation: int, width: float, height: float) -> np.ndarray:
    """The inverse of turn_boxes: boxes of the displayed image, which is width x height, in the
    stored one."""
    return turn_boxes(boxes, _INVERSE[orientation], width, height)
