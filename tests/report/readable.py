"""Whether the text of a figure can be read: nothing is drawn over another text, or cut by the edge."""

import math
from itertools import combinations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

Corners = NDArray[np.float64]
TOUCH = 1.0  # pixels of 1/200 inch: boxes have a little air


def drawn_texts(fig: Figure) -> list[tuple[str, Corners]]:
    """Every text that a renderer is asked to draw, and the four corners [4, 2] of its box, in pixels."""
    found: dict[int, Text] = {}
    draw = Text.draw

    def noted(self: Text, renderer: object) -> None:
        if self.get_visible() and self.get_text().strip():
            found[id(self)] = self
        draw(self, renderer)

    FigureCanvasAgg(fig)
    Text.draw = noted  # type: ignore[method-assign]
    try:
        fig.draw_without_rendering()
    finally:
        Text.draw = draw  # type: ignore[method-assign]
    return [(text.get_text(), corners(text)) for text in found.values()]


def corners(text: Text) -> Corners:
    """Those of the upright box, turned by the text's angle around its centre."""
    box, angle = text.get_window_extent(), math.radians(text.get_rotation())
    width, height = box.width, box.height
    if abs(math.sin(2 * angle)) > 1e-9:
        text.set_rotation(0)
        upright = text.get_window_extent()
        text.set_rotation(math.degrees(angle))
        width, height = upright.width, upright.height
    elif abs(math.sin(angle)) > 0.5:
        width, height = height, width
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2 - TOUCH, height / 2 - TOUCH]
    to = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return half @ to + [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2]


def overlap(a: Corners, b: Corners) -> bool:
    """Whether two rectangles share a point (separating axes)."""
    for box in (a, b):
        for side in (box[1] - box[0], box[2] - box[1]):
            x, y = a @ side, b @ side
            if x.max() < y.min() or y.max() < x.min():
                return False
    return True


def unreadable(fig: Figure) -> list[str]:
    """What is wrong with a figure's texts; nothing, if all can be read."""
    texts = drawn_texts(fig)
    low, high = np.array(fig.bbox.extents[:2]) - 1, np.array(fig.bbox.extents[2:]) + 1
    wrong = [f"{text!r} is cut" for text, box in texts if (box.min(0) < low).any() or (box.max(0) > high).any()]
    for (text, a), (other, b) in combinations(texts, 2):
        if (a.max(0) > b.min(0)).all() and (b.max(0) > a.min(0)).all() and overlap(a, b):
            wrong.append(f"{text!r} and {other!r} overlap")
    return wrong
