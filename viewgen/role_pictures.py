"""Pictures of views of roles, for people: only the channels that count, with signed ones around mid-grey.

Shape legend: V views, C, H, W channels and space.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from viewgen.roles import Role

__all__ = ["resized", "role_picture", "role_pictures"]

# share of the values of a signed picture that its range of grey levels holds
SHOWN_SHARE = 0.99
MIDDLE = 127.5
# red, green and blue of a unit of either of two channels: blue against yellow, and red against cyan
TWO_CHANNELS = np.array([[0.0, -0.5, 1.0], [1.0, -0.5, 0.0]])


def role_picture(view: NDArray[np.uint8], role: Role) -> NDArray[np.uint8]:
    """Draw a view of a role.

    One channel becomes grey. Two become colours around mid-grey: the first from yellow to blue, the second
    from cyan to red. A signed view is stretched around mid-grey until 99 % of its values fill the range.

    Args:
        view: storage image, `(C, H, W)`.
        role: role of the view.

    Returns:
        uint8 `(3, H, W)`.
    """
    shown = role.of(view).astype(np.float64) - MIDDLE
    if role.signed:
        largest = float(np.quantile(np.abs(shown), SHOWN_SHARE))
        shown = shown * (MIDDLE / largest) if largest > 0.5 else shown
    if len(shown) == 1:
        shown = np.repeat(shown, 3, axis=0)
    elif len(shown) == 2:
        shown = np.einsum("chw,cd->dhw", shown, TWO_CHANNELS)
    picture: NDArray[np.uint8] = np.clip(shown[:3] + MIDDLE, 0, 255).round().astype(np.uint8)
    return picture


def role_pictures(views: NDArray[np.uint8], roles: Sequence[Role]) -> NDArray[np.uint8]:
    """Draw storage views `(…, V, C, H, W)` as `(…, V, 3, H, W)`; those without roles stay as they are."""
    if not roles:
        return views
    flat = views.reshape(-1, *views.shape[-4:])
    drawn = [[role_picture(view, role) for view, role in zip(one, roles, strict=False)] for one in flat]
    return np.array(drawn).reshape(*views.shape[:-4], len(drawn[0]), 3, *views.shape[-2:])


def resized(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return images `(R, 3, H, W)` scaled to another side in pixels; those of that side as they are."""
    if images.shape[-1] == side:
        return images
    from PIL import Image

    scaled = [
        np.asarray(Image.fromarray(one.transpose(1, 2, 0)).resize((side, side), Image.Resampling.LANCZOS))
        for one in images
    ]
    return np.stack(scaled).transpose(0, 3, 1, 2)
