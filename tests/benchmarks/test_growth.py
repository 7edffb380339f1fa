"""The lines that are fitted to measured costs."""

import growth
import numpy as np
import pytest


def test_a_line_is_found_again():
    found = growth.fit([1, 2, 4, 8], [0.5 + 0.25 * x for x in (1, 2, 4, 8)], "line")
    assert found.a == pytest.approx(0.5)
    assert found.b == pytest.approx(0.25)
    assert found.r_squared == pytest.approx(1)
    np.testing.assert_allclose(found(np.array([10.0])), 3.0)


def test_a_power_is_found_again():
    found = growth.fit([16, 32, 64], [3e-4 * x**2.1 for x in (16, 32, 64)], "power")
    assert found.a == pytest.approx(3e-4)
    assert found.b == pytest.approx(2.1)
    np.testing.assert_allclose(found(np.array([128.0])), 3e-4 * 128**2.1)


def test_r_squared_is_the_share_of_the_variance_that_is_explained():
    x, y = [0, 1, 2, 3], [0.0, 2.0, 1.0, 3.0]
    found = growth.fit(x, y, "line")
    assert found.b == pytest.approx(0.8)
    # residuals −0.3, 0.9, −0.9, 0.3; the variance around 1.5 sums to 5
    assert found.r_squared == pytest.approx(1 - 1.8 / 5)


def test_fits_are_put_into_words():
    line = growth.Fit(kind="line", a=0.1, b=0.0123, r_squared=0.9996)
    power = growth.Fit(kind="power", a=1.0, b=1.957, r_squared=0.99)
    assert growth.describe("images", line) == "0.10 s + 12 ms per image (R² 1.000)"
    assert growth.describe("resolution", power) == "time ∝ resolution^1.96 (R² 0.990)"


def test_the_picture_is_drawn(tmp_path):
    series = {
        "views": ((2, 4), (1.0, 2.0), growth.fit([2, 4], [1.0, 2.0], "line")),
        "resolution": ((16, 32), (1.0, 4.0), growth.fit([16, 32], [1.0, 4.0], "power")),
    }
    growth.draw(series, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_a_search_takes_the_updates_it_is_told(monkeypatch):
    monkeypatch.setattr(growth, "USUAL", {"images": 2, "views": 2, "updates": 1, "resolution": 16})
    growth.build_search("updates", 2)()
