"""Feature networks for comparing images, each under its own name.

FID and KID are defined on Inception features and are reported under these names only where the original
weights are available (package torch-fidelity and its file). The same statistics on another network carry that
network's name in brackets.

References:
    GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, Heusel et al., 2017
    (FID), https://arxiv.org/abs/1706.08500
    Demystifying MMD GANs, Bińkowski et al., 2018 (KID), https://arxiv.org/abs/1801.01401
"""

import importlib.util
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from viewgen.errors import CorruptDataError, MissingFileError
from viewgen.images import to_model
from viewgen.networks.encoder import Encoder
from viewgen.networks.files import file_digest
from viewgen.networks.torchvision_import import import_torchvision

__all__ = ["EncoderFeatures", "FeatureNet", "InceptionFeatures", "has_inception", "inception_file"]

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"

OWN_NAMES = {"frechet_distance": "fid", "kernel_distance": "kid"}


class FeatureNet(Protocol):
    """A network whose features are compared.

    Attributes:
        title: name of the network.
        scaled: True if kernel distances divide the features by their root mean square first.
    """

    title: str
    scaled: bool

    def name(self, statistic: str) -> str:
        """Return the name of `statistic` on these features."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """Map storage images, uint8 `(B, 3, H, W)`, to features `(B, D)`, float32."""
        ...


class EncoderFeatures:
    """Backbone features of a viewgen encoder."""

    title = "viewgen encoder"
    scaled = True

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def name(self, statistic: str) -> str:
        """Return the statistic's name with the network's in brackets."""
        return f"{statistic}[{self.title}]"

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return the backbone's features."""
        return self.encoder.embed(to_model(images))


def inception_file() -> Path:
    """Return torch-fidelity's file of the weights of FID's Inception network."""
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION


def has_inception() -> bool:
    """Return True if the package and the weights are available."""
    return importlib.util.find_spec("torch_fidelity") is not None and inception_file().is_file()


class InceptionFeatures:
    """The 2048 features of FID's Inception network, by torch-fidelity; images are enlarged as FID does.

    Raises:
        MissingFileError: the package or the weights are missing.
        CorruptDataError: the weights are not the published ones.
    """

    title = "inception"
    scaled = False

    def __init__(self, device: torch.device) -> None:
        if not has_inception():
            raise MissingFileError(
                "FID and KID need the package torch-fidelity (pip install 'viewgen[fid]') and its weights at "
                f"{inception_file()} (from {INCEPTION_URL}); --features encoder does without"
            )
        wanted = INCEPTION.removesuffix(".pth").rsplit("-", 1)[1]
        if not file_digest(inception_file()).removeprefix("sha256:").startswith(wanted):
            raise CorruptDataError(
                f"{inception_file()} is damaged or another file (its sha256); get {INCEPTION_URL} again"
            )
        import_torchvision()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        network: Any = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(inception_file())
        )
        self.network = network.to(device).eval()

    def name(self, statistic: str) -> str:
        """Return FID's and KID's own names; others carry the network's name in brackets."""
        return OWN_NAMES.get(statistic, f"{statistic}[{self.title}]")

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return the features of the last pooling layer."""
        (found,) = self.network(images)
        features: Tensor = found.float()
        return features
