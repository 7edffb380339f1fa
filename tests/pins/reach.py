"""The only imports of the packages' insides: after a move this file is adapted, and no other pin.

`cache_document` and `run_identity` say what a command would write as identity, without running it;
`save_networks` makes the small networks, which was done once for every version that has golden files.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pinned import done
from torch import nn


def cache_document(words: str) -> dict[str, Any]:
    """Return the ``zarr.json`` that a `viewgen cache` command gives its cache."""
    from viewgen.store.metadata import group_metadata
    from viewgen_pipelines import cache as caching

    plans: list[Any] = []
    preview = caching._preview

    def look(plan: Any, *others: Any) -> Any:
        plans.append(plan)
        return preview(plan, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caching, "_preview", look)
        done(f"{words} --out planned.zarr --dry-run")
    document: dict[str, Any] = json.loads(group_metadata(plans[0].target.spec))
    return document


def run_identity(words: str) -> dict[str, Any]:
    """Return the identity that a `viewgen train` command gives its run."""
    from viewgen_train import training, worker
    from viewgen_train.distributed import World

    class Planned(BaseException):
        pass

    plans: list[Any] = []

    def look(plan: Any, *_: Any, **__: Any) -> None:
        plans.append(plan)
        raise Planned

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_worker", look)
        with pytest.raises(Planned):
            done(f"{words} --out runs/planned")
    trainer = worker.build_trainer(plans[0], World.current(), torch.device("cpu"))
    identity: dict[str, Any] = json.loads(json.dumps(trainer.identity))
    return identity


@torch.no_grad()
def save_networks(folder: Path) -> None:
    """Write random 32-px networks, with batch statistics of the generator's images."""
    from viewgen.networks.encoder import Encoder, EncoderConfig
    from viewgen.networks.files import save_model
    from viewgen.networks.inverter import Inverter, InverterConfig
    from viewgen.networks.stylegan2 import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig

    channels = (8, 8, 8, 8)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        generator = Generator(
            GeneratorConfig(image_size=32, channels=channels, num_mapping_layers=2, style_dim=16)
        )
        for name, parameter in generator.named_parameters():
            if name.endswith("noise.weight"):
                nn.init.constant_(parameter, 0.1)
        generator.latent_avg.copy_(generator.mean_latent(200))
        discriminator = Discriminator(DiscriminatorConfig(image_size=32, channels=channels))
        inverter = Inverter(InverterConfig(image_size=32, channels=channels, hidden_dim=16, style_dim=16))
        inverter.latent_avg.copy_(generator.latent_avg)
        encoder = Encoder(EncoderConfig(image_size=32, width=4, projection_dim=16))
        images = generator(torch.randn(256, 16)).clamp(-1, 1)
    for network in (inverter, encoder):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        network.train()(images)
    for network in (generator, discriminator, inverter, encoder):
        path = folder / f"{type(network).__name__.lower()}.safetensors"
        save_model(network, path, dtype=torch.float16)
