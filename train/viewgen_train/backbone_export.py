"""Export of a trained encoder's backbone in the form of torchvision, timm and Hugging Face's hub."""

import json
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save

from viewgen.errors import UsageError
from viewgen.export.card import front_matter
from viewgen.files import write_atomically
from viewgen.networks.encoder import EncoderConfig
from viewgen.networks.files import read_state
from viewgen_train.export import export_encoder
from viewgen_train.run import Run, open_run

__all__ = ["LIBRARIES", "export_backbone"]

LIBRARIES = ("torchvision", "timm", "hf")
WEIGHTS, CONFIG, PAGE = "model.safetensors", "config.json", "README.md"
PREFIX = "backbone."


def export_backbone(
    run: str | Path,
    out: str | Path,
    library: Literal["torchvision", "timm", "hf"],
    *,
    which: Literal["last", "best"] = "last",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a run's backbone with the names of torchvision's and timm's residual networks.

    The folder gets ``model.safetensors``, ``config.json`` (in timm's form) and ``README.md`` with the lines
    that load it; for the hub also what `export_encoder` writes, and that alone if the network has another
    shape than timm's.

    Args:
        run: folder of a `viewgen train` run.
        out: folder to fill.
        library: ``"torchvision"``, ``"timm"``, or ``"hf"`` for a folder that goes to the hub.
        which: ``"last"`` or ``"best"``.
        overwrite: True to replace an earlier export.

    Returns:
        model card.

    Raises:
        UsageError: the network has another shape than the library's, or `out` holds an export already.
        MissingFileError, ModelError: as `export_encoder`.
    """
    opened = open_run(run, which)
    try:
        config = _plain(opened)
    except UsageError:
        if library != "hf":
            raise
        # of another shape than timm's: for the hub viewgen's own files, whose card says how to load them
        return export_encoder(run, out, which=which, overwrite=overwrite) | {"library": library}
    folder = Path(out).expanduser()
    there = [name for name in (WEIGHTS, CONFIG, PAGE) if (folder / name).exists()]
    if there and not overwrite:
        raise UsageError(f"{folder} holds {', '.join(there)} already; give another --out, or --overwrite")
    card = export_encoder(run, folder, which=which, overwrite=overwrite)
    if library != "hf":
        for name in ("encoder.safetensors", "encoder.card.json"):
            (folder / name).unlink()
    state = {
        name.removeprefix(PREFIX): tensor.float().contiguous()
        for name, tensor in read_state(opened.weights).items()
        if name.startswith(PREFIX) and not name.endswith("num_batches_tracked")
    }
    page = (folder / PAGE).read_text("utf-8")
    write_atomically(folder / WEIGHTS, save(state, metadata={"format": "pt"}))
    document = json.dumps(_config(config), indent=1)
    write_atomically(folder / CONFIG, f"{document}\n".encode())
    write_atomically(folder / PAGE, _page(page, library, config, card).encode())
    return card | {"file": WEIGHTS, "library": library}


def _plain(run: Run) -> EncoderConfig:
    """Return the shape of a network that the libraries have; UsageError for another one."""
    config = run.encoder.config
    problem = None
    if not isinstance(config, EncoderConfig):
        problem = "it is a pair of networks for views of different roles"
    elif config.patches:
        problem = "it embeds patches"
    elif config.norm != "batch":
        problem = f"it has {config.norm} normalisation"
    elif config.width != 64:
        problem = f"its width is {config.width}, theirs 64"
    if problem is not None:
        raise UsageError(
            f"the encoder of {run.path} is none of torchvision's or timm's residual networks: {problem}; "
            "export it with --to viewgen"
        )
    assert isinstance(config, EncoderConfig)
    return config


def _config(config: EncoderConfig) -> dict[str, Any]:
    """Return the document that timm keeps beside weights."""
    features = 512 if config.backbone == "resnet18" else 2048
    size = [config.in_channels, config.image_size, config.image_size]
    normalisation = [0.5] * config.in_channels
    return {
        "architecture": config.backbone,
        "num_classes": 0,
        "num_features": features,
        "pretrained_cfg": {"input_size": size, "mean": normalisation, "std": normalisation},
        "stem": {"conv1": "3x3, stride 1, padding 1", "maxpool": "none"},
    }


def _page(page: str, library: str, config: EncoderConfig, card: dict[str, Any]) -> str:
    """Return the model card: what `export_encoder` says of the training, and how to load the weights."""
    about, _, own = page.partition("```python\n")
    about = about.removeprefix("---\n").partition("---\n")[2]
    made = {
        "torchvision": ("import torchvision", f"torchvision.models.{config.backbone}()", True),
        "timm": ("import timm", f'timm.create_model("{config.backbone}", num_classes=0)', False),
    }
    weights = f'"{WEIGHTS}"'
    imports, model, head = made["timm" if library == "hf" else library]
    lines = ["```python", "import torch"]
    if library == "hf":
        lines.append("from huggingface_hub import hf_hub_download")
        weights = f'hf_hub_download("OWNER/NAME", "{WEIGHTS}")'
    lines += [
        imports,
        "from safetensors.torch import load_file",
        "",
        f"model = {model}",
        f"model.conv1 = torch.nn.Conv2d({config.in_channels}, 64, 3, padding=1, bias=False)",
        "model.maxpool = torch.nn.Identity()",
        *(["model.fc = torch.nn.Identity()"] if head else []),
        f"weights = load_file({weights})",
        # torchvision's and timm's batch normalisations count batches, which nothing uses afterwards
        "missing, unexpected = model.load_state_dict(weights, strict=False)",
        'assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)',
        "model.eval()",
        "# images: float (B, C, H, W) in [-1, 1], uint8 / 127.5 - 1",
        "```",
        "",
    ]
    facts = {
        "license": "other",
        **({"library_name": "timm"} if library == "hf" else {}),
        "tags": ["viewgen", "self-supervised-learning", "image-feature-extraction"],
    }
    if library != "hf":
        return front_matter(facts) + about + "\n".join(lines)
    return (
        front_matter(facts)
        + about
        + "\n".join([*lines, "With viewgen, from the folder itself:", "", "```python", own.rstrip("\n")])
        + f"\n\nThe weights were learned from {card['dataset']['name']}, whose terms may hold for them.\n"
    )
