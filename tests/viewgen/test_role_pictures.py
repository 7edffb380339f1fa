"""Pictures of views of roles: channels that count, signed values around mid-grey."""

import numpy as np
import pytest

from viewgen.role_pictures import resized, role_picture, role_pictures
from viewgen.roles import Role

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 5, 6)).astype(np.uint8)


def test_one_channel_is_grey():
    drawn = role_picture(PIXELS, Role(name="one", channels=(1,)))
    np.testing.assert_array_equal(drawn, np.repeat(PIXELS[1:2], 3, axis=0))


def test_two_channels_are_opponent_colours():
    chroma = Role(name="chroma", channels=(1, 2))
    middle = role_picture(np.full((3, 2, 2), 127, np.uint8), chroma)
    assert set(middle.flatten()) <= {127, 128}
    for channel, colour in ((1, 2), (2, 0)):
        pixels = np.full((3, 2, 2), 127, np.uint8)
        pixels[channel] = 255
        red_green_blue = role_picture(pixels, chroma)[:, 0, 0]
        assert red_green_blue.argmax() == colour
        assert red_green_blue[1] < 100, "the other colours darken"


def test_signed_views_are_stretched_around_mid_grey():
    faint = np.array([[[123, 127, 128, 132]]] * 3, np.uint8)
    drawn = role_picture(faint, Role(name="high", signed=True))
    assert (drawn.min(), drawn.max()) == (0, 255)
    np.testing.assert_array_equal(drawn + drawn[..., ::-1], 255)
    np.testing.assert_array_equal(role_picture(faint, Role(name="low")), faint)
    blank = np.full((3, 2, 2), 128, np.uint8)
    np.testing.assert_array_equal(role_picture(blank, Role(name="high", signed=True)), blank)


def test_views_of_a_cache():
    views = np.stack([PIXELS] * 4).reshape(2, 2, 3, 5, 6)
    assert role_pictures(views, ()) is views
    roles = (Role(name="first", channels=(0,)), Role(name="rest", channels=(1, 2)))
    drawn = role_pictures(views, roles)
    assert drawn.shape == (2, 2, 3, 5, 6)
    np.testing.assert_array_equal(drawn[1, 0], role_picture(PIXELS, roles[0]))
    np.testing.assert_array_equal(role_pictures(views[0], roles), drawn[0])


@pytest.mark.parametrize("side", [4, 8])
def test_images_take_the_size_of_the_views(side):
    images = np.full((2, 3, 8, 8), 77, np.uint8)
    found = resized(images, side)
    assert found.shape == (2, 3, side, side)
    assert (found == 77).all()


def test_a_record_without_signs_stays_as_it_was():
    assert Role(name="low").to_json() == {"name": "low", "channels": []}
    signed = Role(name="high", signed=True)
    assert Role.from_json(signed.to_json()) == signed
