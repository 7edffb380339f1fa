"""Networks without values: their shapes alone, and without torch's compiler."""

import subprocess
import sys

import pytest
import torch

from viewgen.networks.initial import fill_normal, standard_normal
from viewgen.networks.stylegan2.layers import resample_kernel


def test_values_are_those_of_torch():
    torch.manual_seed(3)
    drawn = standard_normal(2, 3), standard_normal(4, divisor=0.01), torch.empty(5)
    fill_normal(drawn[2], std=0.1)
    torch.manual_seed(3)
    assert torch.equal(drawn[0], torch.randn(2, 3))
    assert torch.equal(drawn[1], torch.randn(4) / 0.01)
    assert torch.equal(drawn[2], torch.nn.init.normal_(torch.empty(5), std=0.1))


@pytest.mark.parametrize("gain", [1.0, 4.0])
def test_the_resampling_filter_is_an_outer_product(gain):
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps)
    assert torch.equal(resample_kernel(gain), kernel / kernel.sum() * gain)


PLAN = """
import sys
from importlib import resources
from viewgen.networks.files import code_shape, load_model
for dataset in ("digits", "fashion-mnist"):
    weights = resources.files("viewgen_pretrained") / "weights" / dataset
    assert len(code_shape(weights / "generator.safetensors")) == 2
    for kind in ("generator", "inverter", "discriminator"):
        load_model(weights / f"{kind}.safetensors", kind)
print(sorted({"torch", "torch._dynamo", "sympy"} & set(sys.modules)))
"""


def test_shapes_and_weights_need_no_compiler():
    """Its import takes as long as that of torch, in the command and once more in every worker."""
    done = subprocess.run([sys.executable, "-c", PLAN], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == ["['torch']"]
