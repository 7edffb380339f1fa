"""The card of a cache: where its views come from, what was measured of them, under which licence."""

import json
import re
from collections.abc import Iterable
from typing import Any

from viewgen.datasets.registry import DATASETS
from viewgen.errors import UsageError
from viewgen.terminal import shortened

__all__ = ["cache_card", "front_matter", "weights_card"]

# measures of the quality report, at most
MOST_MEASURES = 30
# licences as the hub writes them, by what a data set's terms say
LICENCES = (("MIT", "mit"), ("Apache", "apache-2.0"), ("CC BY 4", "cc-by-4.0"), ("BSD", "bsd-3-clause"))


def cache_card(summary: dict[str, Any], how_to_read: str) -> str:
    """Return the card of a cache as Markdown, with the front matter that a hub reads.

    Args:
        summary: result of `viewgen.store.summarise_cache`.
        how_to_read: Markdown about the files beside the card.
    """
    dataset = summary["dataset"]
    name, split = str(dataset.get("name", "images")), str(dataset.get("split", ""))
    source, licence = _terms(name)
    images = summary["images"]["ok"] + summary["images"]["not_converged"]
    size = f"{summary['channels']}×{summary['height']}×{summary['width']}"
    lines = [
        front_matter(
            {
                "license": _hub_licence(licence),
                "pretty_name": f"{summary['method']} views of {name}",
                "tags": ["viewgen", "self-supervised-learning", "contrastive-learning", summary["method"]],
            }
        ),
        f"# {summary['method']} views of {name}",
        "",
        f"{summary['num_views']} views of each of {images:,} images ({size}, uint8), made by viewgen.",
        "",
        how_to_read,
        "",
        "## Provenance",
        "",
        "| | |",
        "|---|---|",
        f"| images | {_cell(name)}, {_cell(split)}; {_cell(source)} |",
        f"| their digest | `{dataset.get('digest', 'unknown')}` |",
        f"| method | {summary['method']}, seed {summary['seed']} |",
        *(f"| network {role} | `{digest}` |" for role, digest in summary["models"].items()),
        f"| identity of the cache | `{summary['identity']}` |",
        *(f"| {key} | {_cell(value)} |" for key, value in summary["versions"].items()),
        "",
        "Settings of the method:",
        "",
        "```json",
        json.dumps(
            {key: shortened(value) for key, value in summary["config"].items()}, indent=1, ensure_ascii=False
        ),
        "```",
        "",
        "## Quality",
        "",
        *_quality(summary),
        "",
        "## Licence",
        "",
        f"The images' terms: {licence}. Views are made of the images, so that these terms hold for them too.",
        "",
    ]
    return "\n".join(lines)


def weights_card(cards: dict[str, dict[str, Any]]) -> str:
    """Return the card of a folder of weights as Markdown.

    Args:
        cards: name of a network → its model card, as `viewgen pretrain` and `viewgen export` write it.
    """
    lines = [
        front_matter({"license": "other", "tags": ["viewgen", "self-supervised-learning"]}),
        "# Networks of viewgen",
        "",
        "| network | images | steps | measured | sha256 |",
        "|---|---|---|---|---|",
    ]
    names = set()
    for name, card in sorted(cards.items()):
        dataset = card.get("dataset") or card.get("trained_on") or {}
        dataset = dataset if isinstance(dataset, dict) else {"name": str(dataset)}
        names.add(str(dataset.get("name", "unknown")))
        measured = card.get("measured") or {}
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in measured.items() if type(value) is float)
        images = f"{dataset.get('name', 'unknown')} {dataset.get('split', '')}".strip()
        cells = (
            name,
            images,
            str(card.get("steps", "")),
            numbers or "nothing",
            str(card.get("sha256", ""))[:16],
        )
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    lines += [
        "",
        "Each network's `.card.json` holds all settings of its training. The folder is what `viewgen cache "
        "--models` and `viewgen train --models` take.",
        "",
        *licence_lines(names),
    ]
    return "\n".join(lines)


def licence_lines(datasets: Iterable[str]) -> list[str]:
    """Return the section of a card about the terms of the images that networks were trained on."""
    terms = [f"Terms of the images of {name}: {_terms(name)[1]}." for name in sorted(datasets)]
    return ["## Licence", "", *terms, ""]


def front_matter(values: dict[str, Any]) -> str:
    """Return YAML front matter."""
    import yaml

    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---\n"


def _terms(name: str) -> tuple[str, str]:
    """Return source and licence of a data set; unknown for one that is not registered here."""
    try:
        info = DATASETS.entry(re.split("[:?]", name, maxsplit=1)[0]).info
    except UsageError:
        return "unknown to this version of viewgen", "unknown"
    return info.source, info.licence


def _hub_licence(licence: str) -> str:
    return next((identifier for words, identifier in LICENCES if words in licence), "other")


def _quality(summary: dict[str, Any]) -> list[str]:
    lines = []
    if (distance := summary["distance"]) is not None:
        text = f"Distance of a view from its anchor: {distance['mean']:.4g} ± {distance['sd']:.2g}"
        if summary["epsilon_boundary"] is not None:
            text += f" (ε₁ {summary['epsilon_boundary']:g})"
        lines += [text + ".", ""]
    quality = summary["quality"]
    if quality is None:
        return [*lines, "Nothing else was measured; `viewgen measure CACHE` does."]
    verdict = quality.get("verdict") or []
    lines += [f"- {reason}" for reason in verdict] or [
        "Nothing that was measured speaks against these views."
    ]
    measures = [row for row in quality.get("measures", []) if row.get("value") is not None]
    if measures:
        lines += ["", "| measure | value | on |", "|---|---|---|"]
        for row in measures[:MOST_MEASURES]:
            what = " ".join(filter(None, (row["name"], row.get("group", ""))))
            between = "" if row.get("low") is None else f" ({row['low']:.4g} … {row['high']:.4g})"
            lines.append(f"| {_cell(what)} | {row['value']:.4g}{between} | {_cell(row.get('on', ''))} |")
    return lines


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return re.sub(r"([|<>\\`\n])", lambda match: " " if match[1] == "\n" else f"\\{match[1]}", text)
