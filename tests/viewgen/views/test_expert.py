"""The batched expert transform against torchvision's operations, image by image."""

from types import SimpleNamespace

import pytest
import torch

from viewgen.errors import UsageError
from viewgen.networks.torchvision_import import import_torchvision
from viewgen.views import VIEWS
from viewgen.views.augmentation import (
    NUM_UNIFORMS,
    crop_boxes,
    expert_uniforms,
    expert_views,
    resized_crop,
)
from viewgen.views.color_jitter import ORDERS, color_jitter, rotate_hue, to_gray
from viewgen.views.expert import ExpertConfig

functional = import_torchvision("transforms.v2.functional")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_masks_cover_squares_of_one_color_and_change_nothing_else():
    images = 2 * random(400, 3, 32, 32) - 1
    plain = ExpertConfig()
    masked = plain.replace(
        mask_probability=0.5, mask_count=(1, 2), mask_side=(6, 6), mask_fill=(1.0, 0.0, 0.5)
    )

    def drawn(name: str, count: int) -> torch.Tensor:
        return random(400, count, seed=len(name))

    before = expert_views(images, expert_uniforms(drawn, "view", plain), plain)
    after = expert_views(images, expert_uniforms(drawn, "view", masked), masked)
    covered = (before != after).any(dim=1)
    fill = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)
    assert torch.equal(after, torch.where(covered[:, None], fill, before))
    counts = covered.sum(dim=(1, 2))
    assert float((counts > 0).float().mean()) == pytest.approx(0.5, abs=0.08)
    # pixels that have the colour already are a handful among so many
    assert set(counts[counts > 0].tolist()) & {36, 72}
    assert int(counts.max()) <= 72
    large = masked.replace(mask_side=(6, 40))
    uniforms = expert_uniforms(drawn, "view", large)
    with pytest.raises(UsageError, match=r"mask_side is \[6, 40\], and the views have 32 px"):
        expert_views(images, uniforms, large)
    with pytest.raises(UsageError, match=r"mask_side is \[6, 40\], and the views have 32 px"):
        VIEWS.entry("expert").fit(large, SimpleNamespace(image_size=32))  # of a cache, before it is made
    assert VIEWS.entry("expert").fit(large, SimpleNamespace(image_size=40)) is large
    with pytest.raises(UsageError, match="mask_side is given and has no effect"):
        plain.refuse_ignored({"mask_side"})


def test_resized_crop_equals_torchvision():
    images = random(40, 3, 32, 32)
    uniforms = random(40, NUM_UNIFORMS, seed=1)
    boxes = crop_boxes(uniforms[:, :20], uniforms[:, 20:22], 32, 32, ExpertConfig())
    flipped = torch.arange(40) % 2 == 0
    ours = resized_crop(images, boxes, flipped)
    for index in range(40):
        top, left, height, width = (int(value) for value in boxes[index])
        expected = functional.resized_crop(images[index], top, left, height, width, [32, 32], antialias=True)
        if flipped[index]:
            expected = functional.horizontal_flip(expected)
        torch.testing.assert_close(ours[index], expected, atol=2e-5, rtol=0)  # float32 coordinates


def test_crop_boxes_follow_the_ranges():
    uniforms = random(5000, NUM_UNIFORMS)
    boxes = crop_boxes(uniforms[:, :20], uniforms[:, 20:22], 32, 32, ExpertConfig())
    top, left, height, width = boxes.unbind(1)
    assert bool(((top >= 0) & (left >= 0) & (top + height <= 32) & (left + width <= 32)).all())
    share = height * width / 32**2
    assert float(share.min()) > 0.17  # 0.2 less the rounding to whole pixels
    assert float(share.max()) <= 1
    assert float(share.quantile(0.5)) == pytest.approx(0.58, abs=0.05)


def test_color_operations_equal_torchvision():
    images = random(24, 3, 8, 8)
    torch.testing.assert_close(
        to_gray(images), functional.rgb_to_grayscale(images, num_output_channels=1), atol=1e-3, rtol=0
    )
    turns = random(24) - 0.5
    for index, rotated in enumerate(rotate_hue(images, turns)):
        torch.testing.assert_close(
            rotated, functional.adjust_hue(images[index], float(turns[index])), atol=1e-4, rtol=0
        )


def test_color_jitter_applies_each_order_as_torchvision_does():
    config = ExpertConfig()
    images = random(24, 3, 8, 8)
    strengths = random(24, 4, seed=3)
    ours = color_jitter(images, strengths, ORDERS, config)
    for index, order in enumerate(ORDERS.tolist()):
        expected = images[index]
        brightness, contrast, saturation = (0.6 + 0.8 * float(value) for value in strengths[index, :3])
        hue = (2 * float(strengths[index, 3]) - 1) * 0.1
        operations = [
            lambda x, f=brightness: functional.adjust_brightness(x, f),
            lambda x, f=contrast: functional.adjust_contrast(x, f),
            lambda x, f=saturation: functional.adjust_saturation(x, f),
            lambda x, f=hue: functional.adjust_hue(x, f),
        ]
        for operation in order:
            expected = operations[operation](expected)
        # torchvision's luma weights are rounded to four digits in other places
        torch.testing.assert_close(ours[index], expected, atol=2e-3, rtol=0)


def test_a_view_depends_on_its_own_row_alone():
    images = random(16, 3, 32, 32) * 2 - 1
    uniforms = random(16, NUM_UNIFORMS, seed=5)
    config = ExpertConfig()
    together = expert_views(images, uniforms, config)
    alone = torch.cat([expert_views(images[i : i + 1], uniforms[i : i + 1], config) for i in range(16)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert float(together.abs().max()) <= 1 + 1e-6


def test_probabilities_are_kept():
    images = (random(4000, 3, 4, 4) * 2 - 1).contiguous()
    config = ExpertConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), jitter_probability=0.0)
    views = expert_views(images, random(4000, NUM_UNIFORMS, seed=7), config)
    gray = (views[:, 0] - views[:, 1]).abs().amax(dim=(1, 2)) < 1e-6
    assert float(gray.float().mean()) == pytest.approx(0.2, abs=0.025)  # 4 standard deviations
    kept = (views - images).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert float(kept.float().mean()) == pytest.approx(0.4, abs=0.031)


def test_bad_ranges_are_refused():
    with pytest.raises(UsageError, match="crop_scale"):
        ExpertConfig(crop_scale=(0.9, 0.2))
    with pytest.raises(UsageError, match="flip_probability"):
        ExpertConfig(flip_probability=1.5)
