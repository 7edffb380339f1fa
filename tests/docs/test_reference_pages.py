"""The hook that writes the reference pages and keeps pages from loading anything from other servers."""

import importlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mkdocs", reason="needs viewgen[docs]; `make docs` installs it")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/scripts/reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_is_on_its_page(hook):
    from viewgen.cli import COMMANDS

    page = "\n".join(hook.command_lines())
    for name in COMMANDS:
        assert f"## `viewgen {name}`" in page
    assert "--epsilon-boundary" in page
    assert "## `viewgen pretrain inverter`" in page


def test_every_name_of_the_python_page_can_be_imported(hook):
    for names in hook.MODULES.values():
        for name in names:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                module, _, attribute = name.rpartition(".")
                assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.parametrize(
    "html",
    [
        '<img alt="badge" src="https://example.org/badge.svg">',
        '<script src="//example.org/a.js"></script>',
        '<link rel="stylesheet" href="https://example.org/a.css">',
    ],
)
def test_a_page_that_loads_from_elsewhere_is_refused(hook, html):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))
    with pytest.raises(hook.PluginError, match="loads from elsewhere"):
        hook.on_post_page(f"<p>text</p>{html}", page, None)


def test_links_to_other_sites_may_stand(hook):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))
    hook.on_post_page('<a href="https://example.org">e</a><img src="figures/views.png">', page, None)
