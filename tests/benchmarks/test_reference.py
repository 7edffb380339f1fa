"""The paper's procedure that benchmarks measure against computes what the product computes."""

import pytest
import torch
from reference.generator import PlainSynthesis
from reference.search import batched_loss, paper_search, search_loss

from viewgen.networks.stylegan2 import Generator, GeneratorConfig
from viewgen.views.distances import mean_pairwise_distance
from viewgen.views.wsearch.loss import boundary_uniformity_loss
from viewgen.views.wsearch.settings import WSearchConfig


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    network = Generator(GeneratorConfig(image_size=16, channels=(12, 8, 6), num_mapping_layers=2))
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # noise strengths and biases start at zero
    return network.double()


def test_plain_synthesis_gives_the_same_images(generator):
    plain = PlainSynthesis(generator.state_dict(), 16)
    w = torch.randn(5, generator.num_layers, 512, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(plain(w), generator.synthesis(w), rtol=1e-9, atol=1e-9)


def test_the_loss_is_the_products():
    torch.manual_seed(1)
    z = torch.nn.functional.normalize(torch.randn(3, 4, 7, dtype=torch.float64), dim=2)
    anchors = torch.nn.functional.normalize(torch.randn(3, 7, dtype=torch.float64), dim=1)
    config = WSearchConfig(epsilon_boundary=1.2, epsilon_uniformity=1.5, uniformity_weight=0.1)
    settings = {"epsilon_boundary": 1.2, "epsilon_uniformity": 1.5, "weight": 0.1}
    distance = (z - anchors[:, None]).norm(dim=2)
    expected = boundary_uniformity_loss(distance, mean_pairwise_distance(z), config).mean()
    torch.testing.assert_close(search_loss(z, anchors, **settings)[0], expected)
    torch.testing.assert_close(batched_loss(z, anchors, **settings)[0], expected)


@pytest.mark.chaos
def test_the_search_lowers_its_loss_and_stops_at_the_batchs_mean(generator):
    plain = PlainSynthesis(generator.state_dict(), 16)
    plain.requires_grad_(False)
    anchors = torch.randn(2, generator.num_layers, 512, dtype=torch.float64)
    start = anchors[:, None] + 0.01 * torch.randn(2, 3, generator.num_layers, 512, dtype=torch.float64)

    def encoder(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(images.flatten(1), dim=1)

    def search(stop_at: float):
        return paper_search(
            plain, encoder, anchors, start, epsilon_boundary=0.2, epsilon_uniformity=0.3, weight=0.0,
            learning_rate=0.02, max_steps=60, stop_at=stop_at,
        )  # fmt: skip

    outcome = search(1e-3)
    assert 0 < outcome.steps < 60
    assert outcome.losses[-1] <= 1e-3 < outcome.losses[-2]
    assert search(-1.0).steps == 60
