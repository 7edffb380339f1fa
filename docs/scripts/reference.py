"""mkdocs hook: reference pages from `--help` and the docstrings, the notebook as a page.

No page loads anything from another server.
"""

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

MODULES = {
    "Making views": (
        "viewgen_pipelines.cache.cache",
        "viewgen_pipelines.report.CacheResult",
        "viewgen.views.source",
        "viewgen.views.entry",
        "viewgen.roles",
        "viewgen.views.wsearch.settings.WSearchConfig",
        "viewgen.views.wperturb.WPerturbConfig",
        "viewgen.views.expert.ExpertConfig",
        "viewgen.views.online.OnlineConfig",
        "viewgen.views.viewmaker.ViewmakerSettings",
        "viewgen.views.frozen_viewmaker.FrozenViewmakerConfig",
        "viewgen.inversion.settings.InvertConfig",
    ),
    "Caches": (
        "viewgen.opening",
        "viewgen.view_samples",
        "viewgen.view_dataset",
        "viewgen.view_stream",
        "viewgen.view_sampler",
        "viewgen_pipelines.ray_data",
        "viewgen.store.reader",
        "viewgen.store.spec",
        "viewgen.store.storage",
    ),
    "Data sets and networks": (
        "viewgen.export.command",
        "viewgen.sharing.command",
        "viewgen.datasets.registry",
        "viewgen.datasets.dataset.ImageDataset",
        "viewgen.networks.files",
        "viewgen.networks.generator",
        "viewgen.networks.encoder",
        "viewgen.networks.branches",
        "viewgen.networks.weights",
        "viewgen.views.branched",
        "viewgen.images",
        "viewgen_pretrained.pretrain",
        "viewgen_pretrained.settings",
        "viewgen_pretrained.imports.checkpoint",
    ),
    "Training": (
        "viewgen_train.settings",
        "viewgen_train.resolve",
        "viewgen_train.recipes",
        "viewgen_train.optimiser",
        "viewgen_train.lars",
        "viewgen_train.training",
        "viewgen_train.evaluate",
        "viewgen_train.experiment.run",
        "viewgen_train.experiment.document",
        "viewgen_train.export",
        "viewgen_train.backbone_export",
        "viewgen_train.loggers",
        "viewgen_train.run",
        "viewgen_train.objectives.objective",
        "viewgen_train.objectives.simclr",
        "viewgen_train.objectives.infonce",
        "viewgen_train.objectives.simsiam",
        "viewgen_train.objectives.supcon",
        "viewgen_train.objectives.decoupled",
        "viewgen_train.objectives.align_logsumexp",
        "viewgen_train.objectives.align_uniform",
        "viewgen_train.objectives.linear",
        "viewgen_train.objectives.barlow_twins",
        "viewgen_train.objectives.vicreg",
        "viewgen_train.objectives.moco",
        "viewgen_train.objectives.byol",
        "viewgen_train.objectives.nnclr",
        "viewgen_train.objectives.cpc",
        "viewgen_train.objectives.queue",
        "viewgen_train.objectives.assimilation",
        "viewgen_train.objectives.alignment",
        "viewgen_train.objectives.contrast",
        "viewgen_train.objectives.ifm",
        "viewgen_train.objectives.hard_negatives",
    ),
    "From images to a cache": (
        "viewgen_pretrained.prepare.command",
        "viewgen.sizes",
        "viewgen_pretrained.cost",
        "viewgen_pipelines.cost",
    ),
    "Diagnosis": (
        "viewgen_pipelines.measure",
        "viewgen.diagnostics.measure",
        "viewgen.diagnostics.knn",
        "viewgen.diagnostics.weighted_knn",
        "viewgen.diagnostics.nearest_centre",
        "viewgen.diagnostics.probe",
        "viewgen.diagnostics.collapse",
        "viewgen.diagnostics.regression",
        "viewgen.diagnostics.finetune",
        "viewgen.diagnostics.tsne",
        "viewgen.diagnostics.outcomes",
        "viewgen.diagnostics.vectors",
        "viewgen.diagnostics.pose",
        "viewgen.diagnostics.robust_sets",
        "viewgen.diagnostics.ifm_neighbours",
        "viewgen.diagnostics.concentration.diagnostic",
        "viewgen.diagnostics.concentration.augmented_distance",
        "viewgen.diagnostics.concentration.clique",
        "viewgen.diagnostics.concentration.curve",
        "viewgen.diagnostics.concentration.pairs",
        "viewgen.diagnostics.bounds.diagnostic",
        "viewgen.diagnostics.bounds.centres",
        "viewgen.diagnostics.bounds.tightness",
        "viewgen.diagnostics.bounds.theorem",
        "viewgen.diagnostics.bounds.infonce",
        "viewgen.diagnostics.bounds.correlation",
        "viewgen.diagnostics.calibration",
        "viewgen.diagnostics.alignment",
        "viewgen.diagnostics.verdict",
        "viewgen.diagnostics.fidelity",
        "viewgen.diagnostics.reconstruction",
        "viewgen.diagnostics.recognition",
        "viewgen_pipelines.mutual_information",
        "viewgen.diagnostics.mutual_information",
    ),
    "Plug-ins": (
        "viewgen.registry",
        "viewgen.settings",
        "viewgen.testing",
        "viewgen_train.testing",
        "viewgen_pipelines.testing",
    ),
    "Messages and errors": ("viewgen.messages", "viewgen.errors"),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, lines in (("commands", command_lines()), ("python", python_lines())):
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(lines) + "\n"))
    scripts = runpy.run_path(str(Path(__file__).with_name("notebook.py")))
    notebook = json.loads(Path(config.docs_dir, "notebook.ipynb").read_text("utf-8"))
    files.append(File.generated(config, "notebook.md", content=scripts["to_markdown"](notebook)))
    for name, picture in scripts["pictures"](notebook):
        files.append(File.generated(config, name, content=picture))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> None:
    """Refuse a page that would load a script, style, font or picture from another server."""
    loaded = r"<(?:script|img|iframe|source)\b[^>]*?\bsrc=\"?(?:https?:)?//[^\s\">]+|<link\b[^>]*?\bhref=\"?https?://[^\s\">]+"
    if found := re.search(loaded, output):
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {found.group()}")


def command_lines() -> Iterator[str]:
    """The page of commands: what `--help` prints."""
    from viewgen.cli import cli

    yield from ("# Commands", "", "What `--help` prints.", "")
    context = click.Context(cli, info_name="viewgen", max_content_width=96)
    yield from _help(cli, context, "viewgen")


def _help(command: click.Command, context: click.Context, title: str) -> Iterator[str]:
    yield from (f"## `{title}`", "", "```text", command.get_help(context).rstrip(), "```", "")
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                inner = click.Context(below, info_name=name, parent=context, max_content_width=96)
                yield from _help(below, inner, f"{title} {name}")


def python_lines() -> Iterator[str]:
    """The page of Python names, from the docstrings."""
    yield from ("# Python", "", "From the docstrings.", "")
    for title, names in MODULES.items():
        yield from (f"## {title}", "")
        for name in names:
            yield from (f"::: {name}", "")
