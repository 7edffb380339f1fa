"""One of two processes that train together: ``python two_ranks.py RANK FOLDER`` writes FOLDER/RANK.pt."""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from viewgen.networks.branches import Branches, BranchesConfig
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.roles import Role
from viewgen_train.decoder import Decoders, build_decoder
from viewgen_train.distributed import World, synchronise_batchnorm
from viewgen_train.masking import Corrupted
from viewgen_train.network import ContrastiveNetwork, Predictor, group_shuffle
from viewgen_train.objectives.barlow_twins import BarlowTwins, BarlowTwinsSettings
from viewgen_train.objectives.byol import BYOL, BYOLSettings
from viewgen_train.objectives.cpc import CPC, CPCSettings
from viewgen_train.objectives.moco import MoCo, MoCoSettings
from viewgen_train.objectives.nnclr import NNCLR, NNCLRSettings
from viewgen_train.objectives.objective import Head, Outputs, Widths
from viewgen_train.objectives.reconstruction import Reconstruction
from viewgen_train.objectives.simclr import SimCLR, SimCLRSettings, simclr
from viewgen_train.objectives.vicreg import VICReg, VICRegSettings

GLOBAL_BATCH = 12
STEPS = 3
ROLES = (Role(name="first", channels=(0,)), Role(name="rest", channels=(1, 2)))


def train(world: World) -> dict[str, Tensor]:
    """Train a small encoder; each view goes through a pass of its own, as in the recipe of CIFAR-10."""
    torch.manual_seed(0)
    config = EncoderConfig(image_size=8, width=2, projection_dim=4)
    encoder = Encoder(config).double()
    network = world.data_parallel(synchronise_batchnorm(encoder, world))
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.05, momentum=0.9)
    found = {}
    for step in range(STEPS):
        random = torch.Generator().manual_seed(step)
        images = torch.randn(2, GLOBAL_BATCH, 3, 8, 8, generator=random, dtype=torch.float64)
        z1, z2 = (world.gather(network(world.share(view))) for view in images)
        loss = simclr(z1, z2, 0.5)
        optimiser.zero_grad()
        loss.backward()
        found[f"loss {step}"] = loss.detach()
        found |= {f"gradient {step} {name}": p.grad.clone() for name, p in encoder.named_parameters()}
        optimiser.step()
    encoder.eval()
    return found | encoder.state_dict()


def normalise(world: World) -> dict[str, Tensor]:
    """Normalise vectors and images by layers that torch checks for one process."""
    found = {}
    for name, layer, shape in (
        ("flat", nn.BatchNorm1d(5, affine=False), (8, 5)),
        ("image", nn.BatchNorm2d(3, momentum=None), (8, 3, 4, 4)),
        ("untracked", nn.BatchNorm2d(3, track_running_stats=False), (8, 3, 4, 4)),
    ):
        torch.manual_seed(1)
        layer = synchronise_batchnorm(layer, world)
        for _ in range(2):
            # far from 0, where E[x²] − E[x]² would lose its digits
            x = (100 + torch.randn(shape)).requires_grad_()
            y = world.gather(layer(world.share(x)))
            (y * torch.randn(shape)).sum().backward()
        found |= {f"{name} {key}": value for key, value in layer.state_dict().items()}
        found |= {f"{name} output": y.detach(), f"{name} gradient": world.share(x.grad) / world.size}
    return found


def apart(world: World) -> dict[str, Tensor]:
    """Average gradients of parameters that no wrapper knows."""
    torch.manual_seed(2)
    layers = nn.ModuleList([nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(9, 9)])
    x = torch.randn(6, 3)
    F.mse_loss(layers[1](layers[0](world.share(x))), torch.ones(6 // world.size, 2)).backward()
    world.average_gradients(layers.parameters())
    assert layers[2].weight.grad is None
    return {f"apart {name}": p.grad for name, p in layers.named_parameters() if p.grad is not None}


def of_roles() -> Branches:
    """Return an encoder of each role."""
    shapes = {
        role.name: EncoderConfig(image_size=8, width=2, projection_dim=4, in_channels=role.num_channels(3))
        for role in ROLES
    }
    return Branches(BranchesConfig(branches=shapes))


def branched(world: World) -> dict[str, Tensor]:
    """Take the gradients of an encoder of each of two roles, of different numbers of channels."""
    torch.manual_seed(3)
    encoder = of_roles()
    network = ContrastiveNetwork(encoder, Head(), None, separate=False, bf16=False, roles=ROLES)
    parallel = world.data_parallel(synchronise_batchnorm(network, world))
    images = torch.randn(2, GLOBAL_BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    out = parallel(torch.stack([world.share(view) for view in images]))
    z = world.gather(out["z"]).transpose(0, 1)
    simclr(z[0], z[1], 0.5).backward()
    return {f"branched {name}": parameter.grad for name, parameter in encoder.named_parameters()}


def momentum(world: World) -> dict[str, Tensor]:
    """Train MoCo, BYOL and NNCLR for two steps: targets, queues, batch statistics in groups."""
    found = {}
    objectives: dict[str, Any] = {
        "moco": MoCo(MoCoSettings(queue_size=17, target_momentum=0.5, key_groups=3, symmetric=True)),
        "byol": BYOL(BYOLSettings(target_momentum=0.5)),
        "nnclr": NNCLR(NNCLRSettings(queue_size=17, temperature=1.0)),
    }
    for name, objective in objectives.items():
        torch.manual_seed(5)
        if not isinstance(objective, BYOL):
            objective.allocate(Widths(features=16, projections=4))
        head = objective.head
        encoder = Encoder(EncoderConfig(image_size=8, width=2, projection_dim=4, projector=head.projector))
        predictor = Predictor(4, 8) if head.predictor else None
        network = ContrastiveNetwork(encoder, head, predictor, separate=False, bf16=False)
        parallel = world.data_parallel(synchronise_batchnorm(network, world))
        optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.01)
        for step in range(2):
            random = torch.Generator().manual_seed(6 + step)
            images = torch.randn(2, GLOBAL_BATCH, 3, 8, 8, generator=random)
            numbers = world.share(torch.rand(GLOBAL_BATCH, generator=random))
            shuffle = group_shuffle(numbers, head.key_groups) if head.shuffled else None
            parts = parallel(torch.stack([world.share(view) for view in images]), shuffle)
            out = Outputs(**{key: world.gather(part).transpose(0, 1) for key, part in parts.items()})
            loss = objective.loss(out)["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            network.follow(step / 2)
            objective.after_step(out.detach())
            found[f"momentum {name} loss {step}"] = loss.detach()
        found |= {f"momentum {name} {key}": value for key, value in network.state_dict().items()}
        if not isinstance(objective, BYOL):
            found[f"momentum {name} queue"] = objective.queue.keys
    return found


def correlated(world: World) -> dict[str, Tensor]:
    """Take the gradients of Barlow Twins and VICReg, whose statistics are over the whole batch."""
    found = {}
    for name, objective in {
        "barlow": BarlowTwins(BarlowTwinsSettings()),
        "vicreg": VICReg(VICRegSettings()),
    }.items():
        x = torch.randn(GLOBAL_BATCH, 2, 5, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
        part = world.share(x).clone().requires_grad_()
        losses = objective.loss(Outputs(z=world.gather(part).transpose(0, 1)))
        losses["loss"].backward()
        assert part.grad is not None
        found[f"correlated {name} gradient"] = world.gather(part.grad) / world.size
        found[f"correlated {name} loss"] = losses["loss"].detach()
    return found


def patched(world: World) -> dict[str, Tensor]:
    """Take the gradients of CPC, whose negatives are patches of the whole batch, and of its own networks."""
    torch.manual_seed(11)
    objective = CPC(CPCSettings(patches=3, first_offset=1, last_offset=2, context_width=4, context_blocks=1))
    objective.allocate(Widths(features=6, projections=5))
    objective.double()
    random = torch.Generator().manual_seed(12)
    x, z = (torch.randn(GLOBAL_BATCH, 1, 9, n, generator=random, dtype=torch.float64) for n in (6, 5))
    part = world.share(x).clone().requires_grad_()
    patches, projections = (world.gather(one).transpose(0, 1) for one in (part, world.share(z)))
    loss = objective.loss(Outputs(z=projections.mean(dim=2), patches=patches, patch_projections=projections))
    loss["loss"].backward()
    assert part.grad is not None
    found = {f"patched {name}": p.grad for name, p in objective.named_parameters() if p.grad is not None}
    return found | {
        "patched loss": loss["loss"].detach(),
        "patched gradient": world.gather(part.grad) / world.size,
    }


def rebuilt(world: World, *, by_role: bool) -> dict[str, Tensor]:
    """Take the gradients of SimCLR with inpainting of the first view, in the warm-up and after it."""
    title = "rebuilt of roles" if by_role else "rebuilt"
    found = {}
    random = torch.Generator().manual_seed(9)
    images = torch.randn(2, GLOBAL_BATCH, 3, 8, 8, generator=random)
    if by_role:  # sums in another order differ more, of one channel in maps of one pixel
        images = images.double()
    # masks of other areas in either half of the batch
    holes = torch.arange(GLOBAL_BATCH)[:, None, None, None] >= torch.arange(8)
    weights = holes.float().expand(1, GLOBAL_BATCH, 1, 8, 8).contiguous()
    for progress in (0.0, 0.5):
        torch.manual_seed(10)
        if by_role:
            network = ContrastiveNetwork(
                branches := of_roles(),
                Head(),
                None,
                separate=False,
                bf16=False,
                roles=ROLES,
                decoder=Decoders(branches, ["first"], pooled=False),
            ).double()
        else:
            encoder = Encoder(EncoderConfig(image_size=8, width=2, projection_dim=4))
            decoder = build_decoder(encoder, pooled=False)
            network = ContrastiveNetwork(encoder, Head(), None, separate=False, bf16=False, decoder=decoder)
        parallel = world.data_parallel(synchronise_batchnorm(network, world))
        objective = Reconstruction(SimCLR(SimCLRSettings()), weight=2.0, warm_up=0.25)
        objective.whole_graph = True
        part = world.share(weights[0])[None]
        targets = world.share(images[0])[None]
        corrupted = Corrupted(inputs=targets * (1 - part), targets=targets, weights=part)
        parts = parallel(torch.stack([world.share(view) for view in images]), None, corrupted)
        out = Outputs(
            **{name: world.gather(one).transpose(0, 1) for name, one in parts.items()}, progress=progress
        )
        losses = objective.loss(out)
        losses["loss"].backward()
        found |= {f"{title} {progress} {name}": loss.detach() for name, loss in losses.items()}
        found |= {
            f"{title} {progress} {name}": parameter.grad
            for name, parameter in network.named_parameters()
            if parameter.grad is not None
        }
    return found


def everything(world: World) -> dict[str, Tensor]:
    found = train(world) | normalise(world) | apart(world) | branched(world) | momentum(world)
    found |= correlated(world) | patched(world)
    return found | rebuilt(world, by_role=False) | rebuilt(world, by_role=True)


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    world = World.current()
    found = everything(world)
    found["rank"] = torch.tensor([world.rank, world.size])
    found["mean"] = torch.tensor(world.reduce_mean(float(rank)), dtype=torch.float64)
    world.barrier()
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
