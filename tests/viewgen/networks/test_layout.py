"""Memory layouts: results do not depend on a caller's, and no network meets a convolution that is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from viewgen.diagnostics.mutual_information.networks import ImageStatistics
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.inverter import Inverter, InverterConfig
from viewgen.networks.layout import BLOCK_CHANNELS, Conv2d, channels_last, conv2d, laid_out_for
from viewgen.networks.stylegan2 import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from viewgen.networks.viewmaker import Viewmaker, ViewmakerConfig, num_noise_channels

LAYOUTS = {"last": torch.channels_last, "first": torch.contiguous_format}


def networks(width: int) -> dict[str, nn.Module]:
    """Return every kind of network with convolutions of `width` channels at its widest images (16 px)."""
    channels = (4 * width, 2 * width, width)
    return {
        "encoder": Encoder(EncoderConfig(image_size=16, width=width, projection_dim=8)),
        "bottleneck encoder": Encoder(
            EncoderConfig(image_size=16, width=width, projection_dim=8, backbone="resnet50")
        ),
        "inverter": Inverter(InverterConfig(image_size=16, channels=channels, hidden_dim=8, style_dim=8)),
        "discriminator": Discriminator(DiscriminatorConfig(image_size=16, channels=channels)),
        "statistics": ImageStatistics((3, 16, 16), width=width),
        "viewmaker": Viewmaker(ViewmakerConfig(width=width)),
        "generator": Generator(
            GeneratorConfig(image_size=16, channels=channels, num_mapping_layers=1, style_dim=8)
        ),
    }


def run(kind: str, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return what a network makes of images `(B, 3, 16, 16)`."""
    random = torch.Generator().manual_seed(2)
    if kind == "generator":
        codes = torch.randn(len(images), 6, 8, generator=random)
        return network.synthesis(codes.to(images.dtype))
    if kind == "statistics":
        return network(images, images.flip(0))
    if kind == "viewmaker":
        shape = (len(images), num_noise_channels(), 16, 16)
        return network(images, torch.rand(shape, generator=random).to(images.dtype))
    return network(images)


def gradients(kind: str, network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradients of all parameters, and of the images where they count."""
    leaf = images.detach().requires_grad_()
    value = run(kind, network, leaf)
    direction = torch.linspace(-0.5, 1, value.numel(), dtype=value.dtype).view(value.shape)
    leaves = [*network.parameters(), leaf]
    found = torch.autograd.grad(value, leaves, direction, allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


class Convolutions(TorchDispatchMode):
    """Notes input channels, kernel and stride of every convolution, and whether tensors lie channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, tuple[int, ...], tuple[int, ...], bool]] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            x, weight, _, stride = args[:4]
            last = any(
                t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()
                for t in (x, weight)
            )
            self.seen.add((x.shape[1], tuple(weight.shape[2:]), tuple(stride), last))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 12])
def test_no_network_meets_an_unsafe_convolution(width):
    """Whatever the layout of the images, and of the weights."""
    met = set()
    for kind, network in networks(width).items():
        for laid_out in (network, channels_last(network)):
            for memory_format in LAYOUTS.values():
                images = torch.rand(4, 3, 16, 16).contiguous(memory_format=memory_format)
                with Convolutions() as convolutions:
                    run(kind, laid_out, images)
                met |= {(kind, *shape) for shape in convolutions.seen}
    unsafe = [
        shape for shape in met if shape[1] < BLOCK_CHANNELS and shape[2] == (1, 1) and max(shape[3]) > 1
    ]
    assert not unsafe
    assert any(last for *_, last in met)


def test_the_watch_sees_an_unsafe_convolution():
    x = torch.rand(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), Convolutions() as convolutions:
        nn.Conv2d(4, 8, 1, stride=2)(x)
    assert convolutions.seen == {(4, (1, 1), (2, 2), True)}


@pytest.mark.parametrize("kind", ["encoder", "inverter", "discriminator"])
@pytest.mark.parametrize("weights", LAYOUTS)
def test_results_do_not_depend_on_the_layout_of_the_images(kind, weights):
    torch.manual_seed(0)
    network = networks(12)[kind].eval()
    if weights == "last":
        channels_last(network)
    images = torch.rand(5, 3, 16, 16)
    first, last = (run(kind, network, images.contiguous(memory_format=f)) for f in LAYOUTS.values())
    assert torch.equal(first, last)


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("side", [7, 8])
def test_a_strided_pointwise_convolution_is_the_library_s(stride, side):
    x = torch.rand(3, 5, side, side, dtype=torch.float64, requires_grad=True)
    layer = Conv2d(5, 4, 1, stride=stride).double()
    found, expected = conv2d(x, layer.weight, layer.bias, stride=stride), nn.Conv2d.forward(layer, x)
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=0)
    leaves = (x, layer.weight, layer.bias)
    for a, b in zip(
        torch.autograd.grad(layer(x).square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-13, rtol=0)
    assert torch.autograd.gradgradcheck(lambda x: layer(x).square(), (x,))


def test_weights_that_lie_both_ways_decide_nothing():
    images = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    ambiguous = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(1, 4, 3))
    assert laid_out_for(channels_last(ambiguous), images).is_contiguous()
    decided = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3))
    assert laid_out_for(channels_last(decided), images) is images


def compare() -> None:
    """Print the largest relative error of the float32 gradients of every narrow network."""
    errors = {}
    for width in (3, 4, 6):
        torch.manual_seed(width)
        for kind, network in networks(width).items():
            # batch normalisation of a few values divides by almost nothing; group norm and no norm stay
            network.eval()
            images = torch.rand(16, 3, 16, 16)
            with torch.backends.mkldnn.flags(enabled=False):
                expected = gradients(kind, network.double(), images.double())
            found = gradients(kind, channels_last(network.float()), images)
            # a bias before a normalisation has no gradient but rounding
            least = 1e-3 * max(a.norm() for a in expected)
            errors[f"{kind}, width {width}"] = max(
                float((b.double() - a).norm() / a.norm().clamp_min(least))
                for a, b in zip(expected, found, strict=True)
            )
    print(json.dumps(errors))


def test_gradients_of_narrow_networks_are_right_without_avx512():
    """On a processor with AVX2 alone, or one told to be like it."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run(
        [sys.executable, "-c", f"import runpy; runpy.run_path({str(Path(__file__))!r})['compare']()"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    errors = json.loads(done.stdout.splitlines()[-1])
    assert len(errors) == 21
    # rounding of float32 through some twenty layers; a wrong kernel is off by 0.1 and more
    assert max(errors.values()) < 1e-3, errors
