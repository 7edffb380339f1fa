"""Headings and names of the picture of some views."""

import numpy as np
from PIL import ImageFont

from viewgen.contact_sheet import MARGIN, _in_lines, _label_name, contact_sheet


def drawn(title, names=("a\n#0",)):
    images = np.zeros((1, 3, 16, 16), np.uint8)
    return contact_sheet(
        images, None, images[None], np.full((1, 1), np.nan), title=title, row_names=list(names)
    )


def test_a_heading_that_is_too_wide_is_in_lines():
    font = ImageFont.load_default(13)
    title = "overlay:trifeature:32?size=32&scale=0.75&tint=true&images=6000 (train) · wsearch"
    lines = _in_lines(title, font, 200).split("\n")
    assert len(lines) > 2
    assert all(font.getlength(line) <= 200 for line in lines)
    assert "".join(lines).replace(" ", "") == title.replace(" ", "")
    assert _in_lines("short title", font, 200) == "short title"
    short, long = drawn("short"), drawn(title)
    assert long.shape[0] > short.shape[0]
    assert long.shape[1] == short.shape[1]
    # nothing is drawn into the margin at the right
    assert (long[:, -MARGIN:] == 255).all()


def test_every_attribute_has_a_line_that_fits():
    attributes = [
        type("Attribute", (), {"name": name})() for name in ("digit", "a-very-long-attribute", "c", "d")
    ]
    dataset = type("Dataset", (), {"attributes": attributes, "class_names": ["x"]})()
    assert _label_name(dataset, np.array([4, 0, 1, 2])) == "digit 4\na-very-long-attr\nc 1"
    assert _label_name(dataset, np.array(0)) == "x"
    assert _label_name(dataset, np.array(-1)) == "-1"
    wide = drawn("t", [_label_name(dataset, np.array([4, 0, 1, 2]))])
    assert wide.shape[1] > drawn("t").shape[1]
