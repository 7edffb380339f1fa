"""The import of torchvision beside any torch build, each in an interpreter of its own."""

import subprocess
import sys

import pytest

PROGRAMS = {
    "the package, lpips, a model": """
        import_torchvision()
        import lpips, torchvision
        assert lpips.LPIPS
        assert import_torchvision() is torchvision
        assert import_torchvision("models").resnet18().fc.out_features == 1000
    """,
    "a submodule first": """
        functional = import_torchvision("transforms.v2.functional")
        import torch
        assert functional.horizontal_flip(torch.arange(2.0)[None]).tolist() == [[1.0, 0.0]]
        assert import_torchvision("ops") is import_torchvision("ops")
    """,
    "an unknown submodule first": """
        try:
            import_torchvision("nonsense")
        except ModuleNotFoundError as error:
            assert "torchvision.nonsense" in str(error)
        else:
            raise AssertionError
        assert import_torchvision("models").resnet18
    """,
}


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(program, id=name, marks=[] if "package" in name else pytest.mark.chaos)
        for name, program in PROGRAMS.items()
    ],
)
def test_in_a_fresh_interpreter(program):
    lines = ["from viewgen.networks.torchvision_import import import_torchvision", *program.splitlines()]
    code = "\n".join(line.removeprefix(" " * 8) for line in lines)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
