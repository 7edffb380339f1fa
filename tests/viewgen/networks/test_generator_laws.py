"""The generator against a plain formulation of StyleGAN2, and its laws."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewgen.errors import ModelError
from viewgen.networks.stylegan2 import Generator, GeneratorConfig, num_style_layers, public_channels


def make(image_size: int = 16, channels: tuple[int, ...] = (6, 5, 4), **settings) -> Generator:
    """A float64 generator whose every parameter is random."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        config = GeneratorConfig(
            image_size=image_size, channels=channels, num_mapping_layers=2, style_dim=7, **settings
        )
        generator = Generator(config).double()
        for name, parameter in generator.named_parameters():
            if name.endswith(("bias", "noise.weight")):
                nn.init.normal_(parameter, 1.0 if "modulation" in name else 0.0, 0.5)
        generator.latent_avg.copy_(torch.randn(7))
    return generator.eval().requires_grad_(False)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- the plain formulation: one weight per sample, zero insertion and filters written out


def zero_insertion(x: Tensor) -> Tensor:
    batch_size, num_channels, height, width = x.shape
    y = x.new_zeros(batch_size, num_channels, 2 * height, 2 * width)
    y[:, :, ::2, ::2] = x
    return y


def low_pass(x: Tensor, before: int, after: int, gain: float) -> Tensor:
    taps = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = gain * torch.outer(taps, taps)[None, None]
    planes = F.pad(x, (before, after, before, after)).flatten(0, 1)[:, None]
    return F.conv2d(planes, kernel)[:, 0].unflatten(0, x.shape[:2])


def modulated_convolution(x: Tensor, layer: nn.Module, w: Tensor, *, demodulate: bool, up: bool) -> Tensor:
    batch_size, in_channels = x.shape[:2]
    affine = layer.modulation
    style = w @ (affine.weight / math.sqrt(w.shape[1])).T + affine.bias
    kernel_size = layer.weight.shape[-1]
    weight = layer.weight / math.sqrt(in_channels * kernel_size**2) * style[:, None, :, None, None]
    if demodulate:
        weight = weight / (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    padding = kernel_size // 2
    if up:
        # a transposed convolution is a convolution of the zero-filled image by the flipped kernel
        x = F.pad(zero_insertion(x), (2, 1, 2, 1))
        weight, padding = weight.flip(3, 4), 0
    grouped = x.reshape(1, -1, *x.shape[2:])
    y = F.conv2d(grouped, weight.flatten(0, 1), padding=padding, groups=batch_size)
    y = y.view(batch_size, -1, *y.shape[2:])
    return low_pass(y, 1, 1, gain=4) if up else y


def plain_synthesis(generator: Generator, w_plus: Tensor) -> Tensor:
    def styled(x: Tensor, layer: nn.Module, index: int, w: Tensor, *, up: bool) -> Tensor:
        y = modulated_convolution(x, layer.conv, w, demodulate=True, up=up)
        y = y + layer.noise.weight * getattr(generator.noises, f"noise_{index}")
        y = y + layer.activate.bias[:, None, None]
        return torch.where(y > 0, y, 0.2 * y) * 2**0.5

    def to_rgb(x: Tensor, layer: nn.Module, w: Tensor) -> Tensor:
        return modulated_convolution(x, layer.conv, w, demodulate=False, up=False) + layer.bias

    x = generator.input.input.repeat(len(w_plus), 1, 1, 1)
    x = styled(x, generator.conv1, 0, w_plus[:, 0], up=False)
    image = to_rgb(x, generator.to_rgb1, w_plus[:, 1])
    for level, layer in enumerate(generator.to_rgbs):
        index = 2 * level + 1
        x = styled(x, generator.convs[2 * level], index, w_plus[:, index], up=True)
        x = styled(x, generator.convs[2 * level + 1], index + 1, w_plus[:, index + 1], up=False)
        # 4-tap filter of the doubled image: the zero behind the last pixel counts as padding
        image = low_pass(zero_insertion(image), 2, 1, gain=4) + to_rgb(x, layer, w_plus[:, index + 2])
    return image


@pytest.mark.parametrize(("image_size", "channels"), [(8, (3, 5)), (16, (6, 5, 4)), (32, (4, 4, 3, 2))])
def test_synthesis_equals_one_grouped_convolution_per_layer(image_size, channels):
    generator = make(image_size, channels)
    w_plus = normal(3, num_style_layers(image_size), 7)
    found = generator.synthesis(w_plus)
    assert found.shape == (3, 3, image_size, image_size)
    torch.testing.assert_close(found, plain_synthesis(generator, w_plus), rtol=1e-9, atol=1e-9)  # float64


def test_gradient_of_the_codes():
    generator = make(8, (2, 3))
    w_plus = normal(1, 4, 7).requires_grad_()
    assert torch.autograd.gradcheck(generator.synthesis, (w_plus,), eps=1e-6, atol=1e-6)


def test_every_layers_code_reaches_the_image():
    generator = make()
    w_plus = normal(2, 6, 7).requires_grad_()
    (gradient,) = torch.autograd.grad(generator.synthesis(w_plus).square().sum(), w_plus)
    assert gradient.norm(dim=2).min() > 1e-3


def test_an_image_does_not_depend_on_those_beside_it():
    generator = make()
    w_plus = normal(5, 6, 7)
    images = generator.synthesis(w_plus)
    for row in range(5):
        torch.testing.assert_close(generator.synthesis(w_plus[row : row + 1])[0], images[row])
    assert torch.equal(generator.synthesis(w_plus), images)


def test_mixing_takes_coarse_layers_from_one_code_and_fine_layers_from_the_other():
    generator = make()
    first, second = generator.broadcast(normal(1, 7)), generator.broadcast(normal(1, 7, seed=1))
    images = [generator.synthesis(torch.cat([first[:, :cut], second[:, cut:]], dim=1)) for cut in range(7)]
    assert torch.equal(images[0], generator.synthesis(second))
    assert torch.equal(images[6], generator.synthesis(first))
    distances = [(image - images[0]).norm().item() for image in images]
    assert all(distance > 0 for distance in distances[1:])
    # the last layer only colours: it moves the image by a multiple of its own modulation
    assert distances[6] > (images[6] - images[5]).norm().item() > 0


def test_truncation_moves_codes_towards_the_mean():
    generator = make()
    w, mean = normal(4, 7), generator.latent_avg.double()
    torch.testing.assert_close(generator.truncate(w, 0.7), mean + 0.7 * (w - mean))
    torch.testing.assert_close(generator.truncate(w, 1.0), w)
    torch.testing.assert_close(generator.truncate(w, 0.0), mean.expand(4, -1))
    twice = generator.truncate(generator.truncate(w, 0.7), 0.5)
    torch.testing.assert_close(twice, generator.truncate(w, 0.35))
    z = normal(4, 7, seed=3)
    expected = generator.synthesis(generator.broadcast(generator.truncate(generator.mapping(z), 0.7)))
    torch.testing.assert_close(generator(z, psi=0.7), expected)
    one_image = generator(z, psi=0.0)
    torch.testing.assert_close(one_image, one_image[:1].expand(4, -1, -1, -1))
    assert torch.equal(generator(z), generator(z, psi=1.0))


@pytest.mark.parametrize("num_classes", [0, 3])
def test_mean_latent_is_the_mean_over_seeded_draws(num_classes):
    generator = make(num_classes=num_classes).float()
    random = torch.Generator().manual_seed(4)
    total = torch.zeros(7)
    for count in (1000, 500):
        z = torch.randn(count, 7, generator=random)
        labels = torch.randint(3, (count,), generator=random) if num_classes else None
        for row in range(count):
            total += generator.mapping(z[row : row + 1], None if labels is None else labels[row : row + 1])[0]
    found = generator.mean_latent(1500, seed=4)
    torch.testing.assert_close(found, total / 1500, rtol=1e-4, atol=1e-5)  # float32 sums of 1500
    assert torch.equal(found, generator.mean_latent(1500, seed=4))
    assert not torch.equal(found, generator.mean_latent(1500, seed=5))


def test_noise_is_fixed_random_or_given():
    generator = make()
    w_plus = normal(2, 6, 7)
    fixed = generator.synthesis(w_plus)
    assert torch.equal(fixed, generator.synthesis(w_plus, noise="fixed"))
    buffers = [generator.noises.get_buffer(f"noise_{index}") for index in range(5)]
    assert torch.equal(fixed, generator.synthesis(w_plus, noise=buffers))
    assert [buffer.shape[-1] for buffer in buffers] == [4, 8, 8, 16, 16]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = (generator.synthesis(w_plus[:1].expand(2, -1, -1), noise="random") for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    silent = [torch.zeros_like(buffer) for buffer in buffers]
    assert not torch.equal(fixed, generator.synthesis(w_plus, noise=silent))


def test_classes_are_indices_or_weights():
    generator = make(num_classes=3)
    z, labels = normal(4, 7), torch.tensor([0, 2, 1, 2])
    w = generator.mapping(z, labels)
    torch.testing.assert_close(w, generator.mapping(z, F.one_hot(labels, 3).double()))
    assert not torch.allclose(w, generator.mapping(z, labels.flip(0)))
    with pytest.raises(ModelError, match="3 classes"):
        generator.mapping(z)
    with pytest.raises(ModelError, match="without classes"):
        make().mapping(z, labels)


def test_activations_are_clamped_where_the_configuration_says_so():
    free, clamped = make(), make(activation_clamp=0.05)
    clamped.load_state_dict(free.state_dict())
    w_plus = normal(2, 6, 7)
    activation = clamped.conv1(clamped.input(2), w_plus[:, 0], None)
    assert activation.abs().max() <= 0.05
    assert not torch.allclose(free.synthesis(w_plus), clamped.synthesis(w_plus))


def test_wrong_inputs_are_refused_with_the_expected_shape():
    generator = make()
    for shape in ((2, 5, 7), (2, 6, 8), (6, 7)):
        with pytest.raises(ModelError, match=r"takes \(batch, 6, 7\)"):
            generator.synthesis(normal(*shape))
    with pytest.raises(ModelError, match="expected 'fixed', 'random' or 5 tensors"):
        generator.synthesis(normal(1, 6, 7), noise="loud")
    with pytest.raises(ModelError, match="2 noise tensors were given; this generator takes 5"):
        generator.synthesis(normal(1, 6, 7), noise=[normal(1), normal(1)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 12, "channels": (1, 1)}, "power of two"),
        ({"image_size": 4, "channels": (1,)}, "power of two"),
        ({"image_size": 0, "channels": (1,)}, "power of two"),
        ({"image_size": 32, "channels": (1, 1)}, "32 px needs 4"),
        ({"image_size": 8, "channels": (1, 0)}, "at least 1"),
        (
            {"image_size": 8, "channels": (1, 1), "num_mapping_layers": 0},
            "num_mapping_layers is 0; expected greater than or equal to 1",
        ),
    ],
)
def test_impossible_shapes_are_refused(settings, message):
    with pytest.raises(ModelError, match=message):
        GeneratorConfig(**settings)


def test_numbers_of_the_public_networks():
    assert [num_style_layers(size) for size in (8, 32, 64, 1024)] == [4, 8, 10, 18]
    assert public_channels(128, 2) == (512, 512, 512, 512, 512, 256)
    assert public_channels(128, 1) == (512, 512, 512, 512, 256, 128)
