"""Flows of colours: inverse, log-determinant, identity at the start, file."""

import pytest
import torch

from viewgen.errors import ModelError
from viewgen.networks.files import load_model, read_header, save_model
from viewgen.networks.flow import Flow, FlowConfig

COUPLINGS = ("additive", "affine")


def flow_of(coupling, *, random=True, **shape):
    """Return a flow of RGB, with random weights of the size of trained ones."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        flow = Flow(FlowConfig(image_size=8, space="RGB", coupling=coupling, **shape))
        for network in flow.modules() if random else ():
            if isinstance(network, torch.nn.Sequential):
                torch.nn.init.normal_(network[-1].weight, std=0.2)
                torch.nn.init.normal_(network[-1].bias, std=0.2)
    return flow.requires_grad_(False)


def channels(dtype=torch.float32, side=5):
    return torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("coupling", COUPLINGS)
# rounding, which affine blocks scale
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_inverse_returns_the_channels(coupling, dtype, atol):
    flow, x = flow_of(coupling).to(dtype), channels(dtype)
    y = flow(x)
    assert float((y - x).abs().max()) > 0.1, "something was changed"
    torch.testing.assert_close(flow.inverse(y), x, atol=atol, rtol=0)
    torch.testing.assert_close(flow(flow.inverse(x)), x, atol=atol, rtol=0)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_the_log_determinant_is_that_of_the_jacobian(coupling):
    flow = flow_of(coupling).double()
    pixels = channels(torch.float64)[:, :, :2, 0].permute(0, 2, 1).reshape(-1, 3)
    y, log_det = flow.with_log_det(pixels[:, :, None, None])
    expected = []
    for pixel in pixels:
        jacobian = torch.autograd.functional.jacobian(lambda p: flow(p.view(1, 3, 1, 1)).flatten(), pixel)
        expected.append(torch.linalg.slogdet(jacobian)[1])
    torch.testing.assert_close(log_det.flatten(), torch.stack(expected), atol=1e-10, rtol=0)
    assert (float(log_det.abs().max()) > 0.1) == (coupling == "affine"), "additive blocks preserve volume"
    assert torch.equal(y, flow(pixels[:, :, None, None]))


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_flow_starts_as_the_identity_and_knows_no_neighbours(coupling):
    x = channels()
    assert torch.equal(flow_of(coupling, random=False)(x), x)
    flow, order = flow_of(coupling), torch.randperm(25, generator=torch.Generator().manual_seed(2))
    permuted = x.flatten(2)[..., order].view_as(x)
    torch.testing.assert_close(flow(permuted), flow(x).flatten(2)[..., order].view_as(x), atol=1e-5, rtol=0)


def test_every_channel_acts_on_the_others():
    """Two blocks of three change a channel by what the others are."""
    flow = flow_of("affine", num_blocks=6).double()
    pixel = channels(torch.float64)[0, :, 0, 0]
    jacobian = torch.autograd.functional.jacobian(lambda p: flow(p.view(1, 3, 1, 1)).flatten(), pixel)
    assert float(jacobian.abs().min()) > 1e-6


def test_a_file_holds_flow_and_normalisation(tmp_path):
    flow = flow_of("affine", mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.1, 0.3))
    save_model(flow, path := tmp_path / "flow.safetensors")
    loaded = load_model(path, "flow")
    assert loaded.config == flow.config
    assert read_header(path)["kind"] == "flow"
    x = channels()
    torch.testing.assert_close(loaded(loaded.normalised(x)), flow(flow.normalised(x)))
    torch.testing.assert_close(loaded.normalised(x)[:, 1], (x[:, 1] - 0.4) / 0.1)
    with pytest.raises(ModelError, match="holds a network of kind 'flow'; a encoder is needed"):
        load_model(path, "encoder")
