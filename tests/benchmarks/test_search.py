"""The contenders of `benchmarks/search.py` run, and are judged by the same measures."""

import search
import torch
from search_runs import run_reference, run_search

from viewgen.networks.files import load_models
from viewgen.networks.weights import find_models
from viewgen.views.wsearch.settings import WSearchConfig

MEASURES = {"seconds", "updates_per_image"}


def test_the_papers_procedure_and_ours_return_the_same_measures():
    models = load_models(find_models("digits", {"generator", "encoder"}), "cpu")
    torch.manual_seed(0)
    codes = models.generator.broadcast(models.generator.mapping(torch.randn(2, 512))).contiguous()
    rows = torch.arange(2)
    plain = search.PlainSynthesis(models.generator.state_dict(), 32)
    search.freeze(plain)
    config = WSearchConfig(max_steps=2, start_passes=2)
    paper = run_reference(models, plain, codes, rows, config, batch_size=1)
    ours = run_search(models, codes, rows, config, 2)
    assert paper.keys() >= MEASURES
    assert paper.keys() - ours.keys() == set()
    assert paper["updates_per_image"] <= 2
