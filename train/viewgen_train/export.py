"""Export of a trained encoder: weights, model card and instructions for use."""

import json
from pathlib import Path
from typing import Any, Literal

import torch

from viewgen.documents import read_object
from viewgen.errors import CorruptDataError, UsageError
from viewgen.export.card import front_matter, licence_lines
from viewgen.files import write_atomically
from viewgen.networks.branches import Branches, BranchesConfig
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import file_digest, read_header
from viewgen_train.records import assimilation_name, record, view_name
from viewgen_train.run import Run, open_run
from viewgen_train.settings import TrainSettings

__all__ = ["export_encoder"]

WEIGHTS, CARD, PAGE = "encoder.safetensors", "encoder.card.json", "README.md"
# what `viewgen eval` measures, as far as a card tells it
MEASURED = ("top1", "top1_sd", "knn5_top1")


def export_encoder(
    run: str | Path, out: str | Path, *, which: Literal["last", "best"] = "last", overwrite: bool = False
) -> dict[str, Any]:
    """Write a run's encoder with a model card, as `viewgen export` does.

    Args:
        run: folder of a `viewgen train` run.
        out: output folder for ``encoder.safetensors``, ``encoder.card.json`` and ``README.md``.
        which: ``"last"`` for the weights after the last epoch, or ``"best"``.
        overwrite: True to replace existing files of these names in `out`.

    Returns:
        model card; it has accuracies if `viewgen eval` measured these weights.

    Raises:
        MissingFileError: the run does not exist or has no weights yet.
        ModelError: the weights are damaged.
        UsageError: `out` already holds an encoder.
    """
    opened = open_run(run, which)
    folder = Path(out).expanduser()
    there = [name for name in (WEIGHTS, CARD, PAGE) if (folder / name).exists()]
    if there and not overwrite:
        raise UsageError(f"{folder} holds {', '.join(there)} already; give another --out, or --overwrite")
    card = _card(opened)
    write_atomically(folder / WEIGHTS, opened.weights.read_bytes())
    write_atomically(folder / CARD, (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode())
    write_atomically(folder / PAGE, _page(card, opened.settings).encode())
    return card


def _card(run: Run) -> dict[str, Any]:
    """Return a model card in the format of `viewgen pretrain`."""
    digest = file_digest(run.weights)
    return {
        "kind": "encoder",
        "file": WEIGHTS,
        "sha256": digest.removeprefix("sha256:"),
        "dataset": {
            "name": run.dataset,
            "split": run.split,
            "digest": run.digest,
            "images": run.num_images,
        },
        "network": read_header(run.weights)["config"],
        "embedding_dim": run.encoder.embedding_dim,
        "training": record(run.settings),
        "views": None if run.cache is None else {key: run.cache[key] for key in ("method", "identity")},
        "seed": run.settings.seed,
        "steps": run.step,
        "epochs": run.epochs,
        "weights": run.which,
        "parameters": _num_parameters(run.encoder.config),
        "measured": _measured(run, digest),
    }


def _num_parameters(config: EncoderConfig | BranchesConfig) -> int:
    # those that trained: an encoder that was loaded has its normalisations folded away
    with torch.device("meta"):
        network = Branches(config) if isinstance(config, BranchesConfig) else Encoder(config)
        return sum(parameter.numel() for parameter in network.parameters())


def _measured(run: Run, digest: str) -> dict[str, Any]:
    path = run.path / ("evaluation.json" if run.which == "last" else f"evaluation-{run.which}.json")
    if not path.is_file():
        return {}
    document = read_object(path)
    try:
        if document["weights"]["digest"] != digest:
            return {}
        known = {name: document[name] for name in (*MEASURED, "reals") if name in document}
        return known | {"test_images": document["dataset"]["test"]}
    except (LookupError, TypeError) as error:
        raise CorruptDataError(f"{path} is no result of `viewgen eval` ({error!r}); delete it") from error


def _page(card: dict[str, Any], settings: TrainSettings) -> str:
    """Return the model card as a Markdown page."""
    network, dataset = card["network"], card["dataset"]
    size, width = network["image_size"], card["embedding_dim"]
    views = view_name(settings) if card["views"] is None else card["views"]["method"]
    kind = _kind(network)
    images = f"{dataset['images']:,} images of {dataset['name']} ({dataset['split']})"
    how = f"assimilation {assimilation_name(settings)} with {views} views, {card['epochs']:g} epochs"
    lines = [
        front_matter({"license": "other", "tags": ["viewgen", "self-supervised-learning"]})
        + f"# Encoder of {dataset['name']}",
        "",
        f"A {kind}, trained without labels on {images} by viewgen: {how}, batch "
        f"{settings.optimiser.batch_size}, seed {card['seed']}. All settings are in `{CARD}`.",
        "",
    ]
    measured = card["measured"]
    if "top1" in measured:
        lines += [
            f"On {measured['test_images']:,} test images: linear probe {100 * measured['top1']:.2f} ± "
            f"{100 * measured['top1_sd']:.2f} %, 5-NN {100 * measured['knn5_top1']:.2f} %.",
            "",
        ]
    if "reals" in measured:
        reals = ", ".join(f"{name} {values['r2']:.3f}" for name, values in measured["reals"].items())
        lines += [f"R² of a linear regression on {measured['test_images']:,} test images: {reals}.", ""]
    lines += licence_lines([dataset["name"]])
    lines += [
        "## Use",
        "",
        "```python",
        "from viewgen.images import to_model",
        "from viewgen.views.branched import load_image_encoder",
        "",
        f'encoder = load_image_encoder("{WEIGHTS}")',
        f"features = encoder.embed(to_model(images))  # uint8 (B, 3, {size}, {size}) → float32 (B, {width})",
        "```",
        "",
    ]
    if "branches" not in network:
        lines += [
            "As the encoder of a search for views: "
            f"`viewgen cache --dataset {dataset['name']} --method wsearch --encoder {WEIGHTS}`.",
            "",
        ]
    return "\n".join(lines)


def _kind(network: dict[str, Any]) -> str:
    """Return the kind of network in words."""
    branches = network.get("branches", [["", network]])
    shape = branches[0][1]
    one = f"{shape['backbone']} of width {shape['width']} for {network['image_size']}-px images"
    if "branches" not in network:
        return one
    roles = " and ".join(role for role, _ in branches)
    shared = f"{one} for views of the roles {roles}"
    return shared if network.get("shared") else f"pair of networks, each a {one}, for the roles {roles}"
