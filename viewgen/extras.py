"""Optional dependencies (extras), and the error that names a missing one."""

import importlib.util

from viewgen.errors import MissingExtraError

__all__ = ["EXTRAS", "installed", "need"]

EXTRAS = {
    "ray": ("Ray", ("ray",)),
    "gallery": ("FastAPI and Jinja", ("fastapi", "jinja2")),
    "s3": ("s3fs", ("s3fs",)),
    "lpips": ("lpips", ("lpips",)),
    "faiss": ("faiss", ("faiss",)),
    "fid": ("torch-fidelity", ("torch_fidelity",)),
    "readouts": ("SciPy and scikit-learn", ("scipy", "sklearn")),
    "tensorboard": ("TensorBoard", ("tensorboard",)),
    "xarray": ("xarray", ("xarray",)),
    "hf": ("datasets and huggingface_hub", ("datasets", "huggingface_hub")),
    "parquet": ("PyArrow", ("pyarrow",)),
    "wandb": ("Weights & Biases", ("wandb",)),
    "mlflow": ("MLflow", ("mlflow",)),
}
"""Extra → what messages call it, and its modules."""


def installed(extra: str) -> bool:
    """Return True if the packages of an extra are installed."""
    return all(importlib.util.find_spec(module) is not None for module in EXTRAS[extra][1])


def need(extra: str, otherwise: str = "") -> None:
    """Raise an error unless the packages of an extra are installed.

    Args:
        extra: name of the extra.
        otherwise: alternative without the extra, as the end of a sentence.

    Raises:
        MissingExtraError: they are not installed; the message names the command and the extra to install.
    """
    if not installed(extra):
        raise MissingExtraError(
            f"{_command()} needs {EXTRAS[extra][0]}: pip install 'viewgen[{extra}]'"
            + (f", or {otherwise}" if otherwise else "")
        )


def _command() -> str:
    """Return the running command, or "this" outside of the command line."""
    import click

    context = click.get_current_context(silent=True)
    return "this" if context is None else context.command_path
