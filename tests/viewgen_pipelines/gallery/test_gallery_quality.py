"""What the pages say of the worth of views, in numbers at the top and in the table that compares caches."""

from viewgen.diagnostics.measure import Measure
from viewgen.diagnostics.report import Measured
from viewgen_pipelines.gallery.quality import quality, quality_facts, quality_versus
from viewgen_pipelines.quality import ViewQuality


def report(verdict=(), **measures):
    rows = tuple(
        Measured(diagnostic="views", seed=0, measure=Measure(name=name, value=value, on="16 images"))
        for name, value in measures.items()
    )
    return ViewQuality(measured=rows, verdict=tuple(verdict), notes=()).to_json()


GOOD = report(label_kept=0.972, images_with_foreign_view=0.095, distinct_views=3.72)
BAD = report(["most views have another label"], label_kept=0.4, **{"kernel_distance[patches]": 1.5})


def test_the_overview_begins_with_label_kept_and_distinct_views():
    facts = {fact.name: (fact.value, fact.note) for fact in quality_facts(GOOD)}
    assert facts == {
        "Label kept": ("97.2%", "of the views; 9.5% of the images have one of another class"),
        "Distinct": ("3.7", "views of an image, under f"),
    }
    assert quality_facts(None) == []
    assert quality(None) == {}
    assert quality(GOOD)["trusted"]
    assert not quality(BAD)["trusted"]


def test_caches_are_compared_measure_by_measure():
    lines = {line["name"]: line["texts"] for line in quality_versus([GOOD, BAD, None])}
    assert next(iter(lines)) == "verdict"
    assert "most views have another label" in lines["verdict"][1]
    assert lines["verdict"][2] == "not measured"
    assert [text[:5] for text in lines["label kept"][:2]] == ["97.2%", "40.0%"]
    assert lines["distinct views of an image"][0].startswith("3.72")
    assert lines["kernel distance from real images, patches"][1].startswith("1.5")
    missing = {texts[2] for texts in lines.values()}
    assert len(missing) <= 2
    assert lines["distinct views of an image"][1] == lines["label kept"][2]
    assert quality_versus([None, None]) == []
