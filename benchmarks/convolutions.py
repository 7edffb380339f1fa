"""Scan of the convolutions that viewgen's networks can meet: channels-last against contiguous tensors.

    python benchmarks/convolutions.py --isa AVX2     # as on a processor without AVX-512
    python benchmarks/convolutions.py                # with all instructions of this one

A convolution library has other kernels for every instruction set, and a faulty one may give wrong numbers,
hang or overwrite memory. Every shape is therefore tried in a child process with a time limit: forward pass,
gradients of the input and of the weight, in float32 and bfloat16, where input and weight lie channels last,
against the same numbers from contiguous tensors in float64. Prints the shapes that fail, and writes counts
and failures to `benchmarks/results/convolutions-ISA.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
# Relative errors (root mean square) above this are wrong numbers, not rounding: sums of up to 10⁴ products.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
CHANNELS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 20, 24, 31, 33, 40, 48, 64, 96)
FEW_CHANNELS = (1, 2, 3, 4, 6, 7, 8, 12, 16, 17, 24, 40)


def shapes() -> Iterator[dict[str, Any]]:
    """Yield descriptions of convolutions."""
    for channels_in in CHANNELS:
        for channels_out in (3, 4, 8, 16, 24, 64):
            for kernel, stride, padding in ((1, 1, 0), (1, 2, 0)):
                for side, batch in ((32, 16), (17, 3), (8, 32)):
                    yield conv("conv2d", channels_in, channels_out, kernel, stride, padding, side, batch)
    for channels_in in FEW_CHANNELS:
        for channels_out in (3, 4, 8, 12, 16, 24):
            for kernel, stride, padding in (
                (3, 1, 1), (3, 2, 1), (3, 2, 0), (5, 2, 2), (7, 2, 3), (9, 1, 0), (11, 4, 2), (4, 4, 0),
            ):  # fmt: skip
                for side, batch in ((32, 8), (13, 3)):
                    yield conv("conv2d", channels_in, channels_out, kernel, stride, padding, side, batch)
            for side, batch in ((16, 8), (5, 3)):
                yield conv("conv_transpose2d", channels_in, channels_out, 3, 2, 0, side, batch)
    for channels in FEW_CHANNELS:
        for side, batch in ((32, 8), (9, 3)):
            yield conv("conv2d", channels, channels, 4, 1, 1, side, batch, groups=channels)
            yield conv("conv_transpose2d", channels, channels, 4, 2, 1, side, batch, groups=channels)
            yield conv("conv2d", channels, channels, 3, 2, 1, side, batch, groups=channels)


def conv(
    operation: str,
    channels_in: int,
    channels_out: int,
    kernel: int,
    stride: int,
    padding: int,
    side: int,
    batch: int,
    groups: int = 1,
) -> dict[str, Any]:
    """Return one convolution's description."""
    return {
        "operation": operation,
        "channels_in": channels_in,
        "channels_out": channels_out,
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "groups": groups,
        "side": side,
        "batch": batch,
    }


def errors(shape: dict[str, Any], dtype_name: str) -> dict[str, float]:
    """Return the relative errors of result and gradients of a convolution whose tensors lie channels last."""
    import torch

    dtype = getattr(torch, dtype_name)
    generator = torch.Generator().manual_seed(0)
    one, other = shape["channels_in"], shape["channels_out"] // shape["groups"]
    if shape["operation"] == "conv2d":
        one, other = shape["channels_out"], shape["channels_in"] // shape["groups"]
    size = (shape["batch"], shape["channels_in"], shape["side"], shape["side"])
    x = torch.randn(size, generator=generator).to(dtype)
    weight = torch.randn((one, other, shape["kernel"], shape["kernel"]), generator=generator).to(dtype)
    apply = getattr(torch.nn.functional, shape["operation"])
    settings = {name: shape[name] for name in ("stride", "padding", "groups")}

    def run(x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
        x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
        y = apply(x, weight, **settings)
        direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
        if y.is_contiguous(memory_format=torch.channels_last):
            direction = direction.contiguous(memory_format=torch.channels_last)
        return [y.detach(), *torch.autograd.grad(y, (x, weight), direction)]

    with torch.backends.mkldnn.flags(enabled=False):
        expected = run(x.double(), weight.double())
    last = {"memory_format": torch.channels_last}
    found = run(x.contiguous(**last), weight.contiguous(**last))
    names = ("forward", "input gradient", "weight gradient")
    return {
        name: float((b.double() - a).square().mean().sqrt() / a.square().mean().sqrt().clamp_min(1e-12))
        for name, a, b in zip(names, expected, found, strict=True)
    }


def serve() -> None:
    """Compute one shape a line of standard input, and print its errors."""
    import torch

    torch.set_num_threads(int(os.environ.get("SCAN_THREADS", "2")))
    for line in sys.stdin:
        case = json.loads(line)
        print(json.dumps(errors(case["shape"], case["dtype"])), flush=True)


class Child:
    """A process that computes shapes until one kills it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def ask(self, case: dict[str, Any], limit: float) -> dict[str, float] | str:
        """Return the errors, or "hang" or "crash"."""
        import select

        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(case).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return "crash"
        ready, _, _ = select.select([self.process.stdout], [], [], limit)
        if not ready:
            return "hang"
        line = self.process.stdout.readline()
        answer: dict[str, float] | str = json.loads(line) if line else "crash"
        return answer

    def end(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()


def verdict(answer: dict[str, float] | str, dtype: str) -> str:
    """Return "right", "crash", "hang", or which results are wrong."""
    if isinstance(answer, str):
        return answer
    wrong = [name for name, error in answer.items() if not error <= TOLERANCE[dtype]]
    return "wrong " + " and ".join(wrong) if wrong else "right"


def scan(limit: float) -> dict[str, Any]:
    """Try all shapes and return the counts and the failures."""
    import torch

    counts: Counter[str] = Counter()
    failures = []
    child = Child()
    for dtype in TOLERANCE:
        for shape in shapes():
            answer = child.ask({"shape": shape, "dtype": dtype}, limit)
            found = verdict(answer, dtype)
            counts[f"{dtype}: {found}"] += 1
            if found != "right":
                failures.append({"dtype": dtype, "verdict": found, **shape})
                print(json.dumps(failures[-1]), flush=True)
                # memory may be damaged: what comes next must not answer for it
                child.end()
                child = Child()
    child.end()
    return {"torch": torch.__version__, "counts": dict(counts), "failures": failures}


def main() -> None:
    """Scan and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isa", default="native", help="limit for oneDNN, for example AVX2 or AVX512_CORE")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds for a shape")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve()
    if arguments.isa != "native":
        os.environ["ONEDNN_MAX_CPU_ISA"] = arguments.isa
    started = time.monotonic()
    result = scan(arguments.limit) | {"isa": arguments.isa, "seconds": round(time.monotonic() - started)}
    print(json.dumps(result["counts"], indent=1), f"{result['seconds']} s")
    path = RESULTS / f"convolutions-{arguments.isa.lower()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
