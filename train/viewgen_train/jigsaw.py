"""The jigsaw branch of PIRL and InfoMin: patches of an image in any order, as a second query.

A crop of the image is cut into g×g cells. A patch of three quarters of each cell's side, at a random place in
it, passes through the backbone; the features of an image's patches, in random order, become one projection.

References:
    Self-Supervised Learning of Pretext-Invariant Representations, Misra and van der Maaten, 2019,
    https://arxiv.org/abs/1912.01991
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    section 5, https://arxiv.org/abs/2005.10243
    PyContrast (area of the crop, layers of the head), https://github.com/HobbitLong/PyContrast

Shape legend: B images, G = g² patches of each, C channels, P side of a patch, F features, D projection
dimension.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from viewgen.images import to_model
from viewgen.views.augmentation import expert_uniforms, expert_views
from viewgen.views.expert_settings import ExpertConfig
from viewgen.views.jigsaw import check_cells, cut_cells, random_patches
from viewgen.views.source import Images
from viewgen_train.settings import TrainSettings

__all__ = ["JigsawHead", "JigsawPatches", "check_jigsaw"]

CROP_SCALE = (0.6, 1.0)
PATCH_SHARE = 0.75


class JigsawPatches:
    """Patches of a step's images.

    Args:
        grid: g, cells along each side of an image.
        expert: expert transform, whose flip and aspect ratios count.
    """

    def __init__(self, grid: int, expert: ExpertConfig) -> None:
        self.grid = grid
        self._crop = expert.crop_only().replace(crop_scale=CROP_SCALE)

    def __call__(self, images: Images) -> Tensor:
        """Return model images of the patches, in random order, `(B, G, C, P, P)`."""
        draw, count = images.draws.uniform, self.grid**2
        uniforms = expert_uniforms(lambda name, size: draw(name, 1, size)[:, 0], "jigsaw crop", self._crop)
        cells = cut_cells(expert_views(to_model(images.pixels), uniforms, self._crop), self.grid)
        numbers = draw("jigsaw", 1, 3, count)[:, 0]
        patches = random_patches(cells, PATCH_SHARE, numbers[:, 1:])
        order = numbers[:, 0].argsort(dim=1).to(patches.device)
        return patches.gather(1, order[:, :, None, None, None].expand_as(patches))


class JigsawHead(nn.Module):
    """Projection of an image's patches: a network of two layers for each, and a linear layer of all.

    Args:
        features: F.
        dim: D.
        num_patches: G.
    """

    def __init__(self, features: int, dim: int, num_patches: int) -> None:
        super().__init__()
        self.of_patch = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, dim))
        self.joint = nn.Linear(num_patches * dim, dim)

    def forward(self, features: Tensor) -> Tensor:
        """Map features of patches `(B, G, F)` to unit vectors `(B, D)`."""
        return F.normalize(self.joint(self.of_patch(features).flatten(1)), dim=1)


def check_jigsaw(settings: TrainSettings, image_size: int) -> None:
    """Check that images have room for the cells of the jigsaw branch, if the objective has one.

    Args:
        settings: settings of the training.
        image_size: side of the images, in pixels.

    Raises:
        UsageError: cells are too small.
    """
    if grid := settings.objective.build().head.jigsaw:
        check_cells(grid, image_size)
