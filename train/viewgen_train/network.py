"""The network that trains: the encoder and, for SimSiam, its predictor, on all views of a step at once."""

import torch
from torch import Tensor, nn

from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.layout import channels_last
from viewgen_train.config import TrainConfig
from viewgen_train.objectives.assimilation import Predictor

__all__ = ["ContrastiveNetwork", "build_network"]


class ContrastiveNetwork(nn.Module):
    """Views → projections and predictions.

    Args:
        encoder: f.
        predictor: of SimSiam; without one, projections are unit vectors.
        separate: forward view by view, so that batch statistics are those of one view.
        bf16: convolve and multiply in bfloat16.
    """

    def __init__(self, encoder: Encoder, predictor: Predictor | None, *, separate: bool, bf16: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = predictor
        self.separate, self.bf16 = separate, bf16

    def forward(self, views: Tensor) -> Tensor:
        """Map views to what the loss takes.

        Args:
            views: model images, `(K, B, 3, H, W)`.

        Returns:
            `(B, K, D)` projections, or `(B, K, 2·D)` projections and predictions side by side; float32.
        """
        parts = views.split(1) if self.separate else [views]
        return torch.cat([self._together(part) for part in parts], dim=1)

    def _together(self, views: Tensor) -> Tensor:
        flat = views.flatten(0, 1)
        with torch.autocast(flat.device.type, torch.bfloat16, enabled=self.bf16):
            z = self.encoder(flat) if self.predictor is None else self.encoder.project(flat)
            out = z if self.predictor is None else torch.cat([z, self.predictor(z)], dim=1)
        result: Tensor = out.float().unflatten(0, (len(views), -1)).transpose(0, 1)
        return result


def build_network(config: TrainConfig, image_size: int, device: torch.device) -> ContrastiveNetwork:
    """Return a network with weights that depend on the configuration and its seed alone.

    Args:
        config: of the training; its precision is resolved already.
        image_size: side of the images, in pixels.
        device: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = Encoder(
            EncoderConfig(
                image_size=image_size,
                backbone=config.backbone,
                width=config.width,
                projection_dim=config.projection_dim,
                projector="simsiam" if config.simsiam else "mlp",
            )
        )
        predictor = Predictor(config.projection_dim) if config.simsiam else None
    network = ContrastiveNetwork(
        encoder, predictor, separate=config.batchnorm == "separate", bf16=config.precision == "bf16"
    ).to(device)
    if config.channels_last:
        channels_last(network)
    return network
