"""One page of all results: docs/benchmarks.md and benchmarks/results/all.json, from the files beside it.

python benchmarks/table.py
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
NOT_MEASURED = "not measured"
# result file → heading of its rows, in the order of the page; others follow under their file's name
HEADINGS = {
    "search": "Search",
    "precision": "bfloat16: float32 / bfloat16",
    "end_to_end": "From images to a cache",
    "workers": "Two workers on Ray",
    "cache_reads": "Reading a cache",
    "loading": "Batches for a training loop",
    "augmentation": "Expert views",
    "training_cpu": "Training step",
    "objectives": "Objectives",
    "evaluation": "Evaluation",
    "start_up": "Command line",
    "first_shard": "A run on Ray to its first shard",
    "opening": "Opening a cache",
    "many_images": "Measuring many images",
    "commit_log": "Commit log",
}
# before this day the default W-search followed random directions to ε₁, which is a method of its own now
SEARCH_CHANGED = "2026-11-29"
OF_THE_DEFAULT_SEARCH = ("precision", "end_to_end", "workers")
# long measurements that `make bench` does not repeat and that have pages of their own
ELSEWHERE = ("inversion", "mutual_information", "view_quality")
WITHOUT_RATIOS = ("growth", "profile_step")
INTRODUCTION = """---
hide: [toc]
---

# Measured speed

`make bench` measures everything on this page anew and writes it, except what is marked "run apart". The
scripts in `benchmarks/` take options for larger or smaller sizes. Each writes its full result to
`benchmarks/results/`; the ratios of all of them are in `benchmarks/results/all.json`.

How to read the numbers:

- A **ratio** A / B says how many times as long A took as B for the same work: above 1, B is faster. All
  contenders run in turn, round after round, so that a busy machine slows them alike; ratios are taken within
  a round. The table gives the median, and in brackets the 10th and 90th percentile of the rounds (with fewer
  than 10 rounds, the lowest and the highest). A "speed of A / B" is the part of B's speed that A reaches.
- **Peak memory** is by how much a fresh process grew at most while it did the work once; its libraries,
  networks and inputs were there before. For commands it is what all their processes held.
- **Quality** says what else differed, because a faster way to a worse result would prove nothing.
- "Paper" and "published" mean `benchmarks/reference/`: the procedure of [Han et al., 2023](https://arxiv.org/abs/2304.00601),
  written plainly, with the same weights, checked by tests to compute the same images and losses.
"""
GPU_NOTE = """
No GPU was at hand for these measurements, so the last column of the table says "not measured" wherever a
target for one H100 exists, and no number on this page was computed for one. These are the targets; whoever
has the card measures them with the command beside:
"""
GROWTH_NOTE = """
A search with small networks of constant width; what is not varied stays at {images} images, {views} views,
{updates} updates and {resolution} pixels. Images pass through the networks four at a time.
(`benchmarks/growth.py`, run apart, {date})
"""


def load_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return script name → its result, in the order of the page."""
    documents = {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}
    found = {
        name: document
        for name, document in documents.items()
        if name not in ("all", *ELSEWHERE) and ("ratios" in document or name in WITHOUT_RATIOS)
    }
    order = list(HEADINGS)
    return dict(
        sorted(found.items(), key=lambda item: (order.index(item[0]) if item[0] in order else 99, item[0]))
    )


def script(name: str) -> str:
    """Return the script that wrote a result."""
    return f"benchmarks/{name.removesuffix('_cpu').removesuffix('_cuda')}.py"


def made_by(name: str, document: Mapping[str, Any]) -> str:
    """Return which views a result is about, where they are not those of today's default."""
    former = name in OF_THE_DEFAULT_SEARCH and document["date"] < SEARCH_CHANGED
    return ", with the views of 0.1.0 (now W-boundary)" if former else ""


def times(value: float) -> str:
    """Return a ratio with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(found: Mapping[str, Any]) -> str:
    """Return a ratio's median and spread."""
    # a no-break space keeps the two together
    return f"{times(found['median'])}\u00a0({times(found['low'])}–{times(found['high'])})"


def size(num_bytes: int) -> str:
    """Return a size in kB, MB or GB."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.1f}\u00a0GB"
    return f"{num_bytes / 1e6:.0f}\u00a0MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.0f}\u00a0kB"


def memory(found: Mapping[str, Any]) -> str:
    """Return the peak memory of a row's contenders."""
    return "; ".join(f"{name} {size(value)}" for name, value in found.get("peak_bytes", {}).items()) or "–"


def beside(results: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return what other scripts measured for a row: its quality, or its memory."""
    return {
        name: value
        for document in results.values()
        for name, value in document.get("beside", {}).get(key, {}).items()
    }


def quality(title: str, found: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """Return what a row says of its quality; that of a search is looked up by its contenders' names."""
    if found.get("quality"):
        return str(found["quality"])
    for task, contenders in document.get("quality", {}).items():
        if title.startswith(task):
            return "; ".join(f"{name}: {in_words(values)}" for name, values in contenders.items())
    searches = document.get("searches", {})
    parts = []
    for name in title.partition(": ")[2].split(" / "):
        if name in searches:
            value = searches[name]
            parts.append(
                f"{name}: {value['views_in_tolerance']:.1%} of views within 0.05 of ε₁, spread "
                f"{value['spread_share_of_bound']:.0%} of the bound"
            )
    return "; ".join(parts) or "–"


def in_words(values: Mapping[str, float]) -> str:
    """Return names and numbers, in a row."""
    return ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in values.items())


def measured(target: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[str, bool] | None:
    """Return what was measured for a target and whether it is met; None if there is no such row."""
    name, _, title = target["row"].partition("/")
    document = results.get(name, {})
    if title not in document.get("ratios", {}):
        return None
    if "at_most" in target:
        seconds = document["seconds"][target["seconds"]]
        return f"{seconds:.2f} s", seconds <= target["at_most"]
    found = document["ratios"][title]
    return spread(found), found["median"] >= target["at_least"]


def limit(target: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Return what is known of the limit of a target that is missed."""
    parts = [target["limit"]] if "limit" in target else []
    if "found" in target:
        name, _, key = target["found"].partition("/")
        parts += [text] if (text := results.get(name, {}).get("texts", {}).get(key)) else []
    for cited in target.get("cites", ()):
        name, _, title = cited.partition("/")
        found = results.get(name, {}).get("ratios", {}).get(title)
        parts += [f"{title}: {spread(found)}."] if found else []
    return " ".join(parts)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; a bar in a cell would end it."""
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in rows]
    return "\n".join(lines) + "\n"


def target_table(targets: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> str:
    """Return the table of targets, and below it what limits those that are missed."""
    rows, limits = [], []
    for target in targets:
        found = measured(target, results)
        if found is None:
            rows.append([target["says"], NOT_MEASURED, "–"])
            continue
        value, met = found
        name = target["row"].partition("/")[0]
        former = made_by(name, results[name])
        # what other views reached is not claimed for today's
        judged = "**no**" if not met else "–" if former else "yes"
        rows.append([target["says"], value + former, judged])
        if not met and (why := limit(target, results)):
            limits.append(f"- {target['says'].lstrip('… ')}: {why}")
    text = table(("target", "measured", "met"), rows)
    if limits:
        text += "\nWhat limits those that are missed:\n\n" + "\n".join(limits) + "\n"
    return text


def wanted(target: Mapping[str, Any]) -> str:
    """Return a target in figures."""
    return f"< {target['at_most']} s" if "at_most" in target else f"≥ {target['at_least']}"


def in_lines(text: str) -> str:
    """Break a cell's text where it goes on to the next contender."""
    return text.replace("; ", "<br>")


def ratio_table(
    results: Mapping[str, Any],
    targets: Sequence[Mapping[str, Any]],
    gpu: Sequence[Mapping[str, Any]],
    scripts: Sequence[str],
) -> str:
    """Return the one table of all ratios; scripts that are not among `scripts` are marked."""
    by_row = {target["row"]: wanted(target) for target in targets}
    on_gpu = {target["row"] for target in gpu}
    rows = []
    for name, document in results.items():
        if not document.get("ratios"):
            continue
        apart = "" if script(name) in map(script, scripts) else ", run apart"
        about = f"`{script(name)}`{apart}, {document['date']}{made_by(name, document)}"
        rows.append([f"**{HEADINGS.get(name, name)}**", "", "", "", about, ""])
        for title, measured_there in document["ratios"].items():
            key = f"{name}/{title}"
            found = {**beside(results, key), **measured_there}
            rows.append(
                [
                    title,
                    spread(found),
                    by_row.get(key, "–"),
                    in_lines(memory(found)),
                    in_lines(quality(title, found, document)),
                    NOT_MEASURED if key in on_gpu else "–",
                ]
            )
    return table(("what", "ratio", "target", "peak memory", "quality", "one H100"), rows)


def search_table(document: Mapping[str, Any]) -> str:
    """Return the table of searches to their end."""
    rows = [
        [
            name,
            f"{value['seconds']:.3g}",
            f"{value['updates_per_image']:.3g}",
            f"{value['views_in_tolerance']:.1%}",
            f"{value['spread_share_of_bound']:.1%}",
        ]
        for name, value in document["searches"].items()
    ]
    heads = ("search", "seconds", "updates per image", "views within 0.05 of ε₁", "spread, of the bound")
    return table(heads, rows)


def growth_section(document: Mapping[str, Any]) -> str:
    """Return the picture and the words of the growth of the cost."""
    return "\n".join(
        (
            "\n## How the cost grows\n",
            "![Seconds of a search against images, views, updates and resolution, with fitted lines]"
            "(figures/growth.png)",
            GROWTH_NOTE.format(**document["usual"], date=document["date"]),
            table(
                ("cost against", "least squares", "peak memory, from the smallest to the largest"),
                [[name, found["text"], _memory_range(found)] for name, found in document["growth"].items()],
            ),
        )
    )


def _memory_range(found: Mapping[str, Any]) -> str:
    peaks = [value for value in found["peak_bytes"] if value is not None]
    return f"{size(peaks[0])} … {size(peaks[-1])}" if peaks else "–"


def machine(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the processor, and the versions of all packages that took part."""
    parts: list[str] = []
    for document in results.values():
        parts += [part for part in document["machine"].split(", ") if part not in parts]
    return ", ".join(parts)


def dates(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the day of the measurements, or the first and the last of several."""
    days = sorted({document["date"] for document in results.values()})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def page(results: Mapping[str, dict[str, Any]], targets: Mapping[str, Any], scripts: Sequence[str]) -> str:
    """Return the page; `scripts` are those whose time is told."""
    parts = [
        INTRODUCTION,
        f"\nMachine and versions: {machine(results)}. Date: {dates(results)}.\n",
        "\n## Targets\n",
        target_table(targets["target"], results),
        "\n### One H100\n",
        GPU_NOTE.lstrip(),
        table(
            ("what", "target", "measured", "command"),
            [
                [target["what"], target["target"], NOT_MEASURED, f"`{target['command']}`"]
                for target in targets["gpu"]
            ],
        ),
        "\n## All ratios\n",
        ratio_table(results, targets["target"], targets["gpu"], scripts),
    ]
    if results.get("search", {}).get("searches"):
        parts += ["\n## Searches to their end\n", search_table(results["search"])]
    if profile := results.get("profile_step"):
        about = f"(`benchmarks/profile_step.py`, run apart, {profile['date']})\n"
        parts += ["\n## Where a search step's time goes\n", about]
        parts += [*(f"- {text}" for text in profile["texts"].values()), ""]
    if "growth" in results:
        parts.append(growth_section(results["growth"]))
    parts += ["\n## Measured apart\n", elsewhere(), "\n## Time that `make bench` took\n"]
    parts.append(seconds_table(results, scripts))
    return re.sub(r"(?<=\d)%", "\u00a0%", "\n".join(parts))


def elsewhere() -> str:
    """Return links to the pages of measurements that are not repeated with each run."""
    known = {
        "inversion.md": "ways to invert an image, their errors and times",
        "mutual-information.md": "estimates of mutual information where it is known",
        "scaling.md": "more workers and images than one machine has, simulated",
        "augmentation.md": "why the expert transform is our own",
        "explanation/view-quality.md": "what the views of each method are worth, and what they cost",
    }
    return "\n".join(f"- [{what}]({name})" for name, what in known.items() if (DOCS / name).exists()) + "\n"


def in_one_go() -> list[str]:
    """Return the scripts that `make bench` runs."""
    makefile = (HERE.parent / "Makefile").read_text("utf-8")
    line = next(line for line in makefile.splitlines() if line.startswith("BENCHMARKS :="))
    return line.partition(":=")[2].split()


def seconds_table(results: Mapping[str, Mapping[str, Any]], scripts: Sequence[str]) -> str:
    """Return the seconds that each script of `make bench` took."""
    seconds = {script(name): document.get("script_seconds", 0.0) for name, document in results.items()}
    ran = {path: seconds[path] for name in scripts if (path := script(name)) in seconds}
    rows = [[f"`{path}`", f"{value:.0f}"] for path, value in ran.items()]
    return table(("script", "seconds"), [*rows, ["all", f"{sum(ran.values()):.0f}"]])


def collected(results: Mapping[str, dict[str, Any]], targets: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON document of all ratios, targets and costs."""
    judged = []
    for target in targets["target"]:
        found = measured(target, results)
        judged.append({**target, "measured": found and found[0], "met": found and found[1]})
    return {
        "machine": machine(results),
        "date": dates(results),
        "script_seconds": {
            name: document["script_seconds"]
            for name, document in results.items()
            if "script_seconds" in document
        },
        "ratios": {
            f"{name}: {title}": value
            for name, document in results.items()
            for title, value in document.get("ratios", {}).items()
        },
        "growth": results.get("growth", {}).get("growth", {}),
        "profile": results.get("profile_step", {}).get("profile", {}),
        "targets": judged,
        "targets_of_one_h100": [{**target, "measured": None} for target in targets["gpu"]],
    }


def main() -> None:
    """Write the page and the collected ratios."""
    results = load_results(HERE / "results")
    targets = tomllib.loads((HERE / "targets.toml").read_text("utf-8"))
    (DOCS / "benchmarks.md").write_text(page(results, targets, in_one_go()), "utf-8")
    text = json.dumps(collected(results, targets), indent=1, ensure_ascii=False)
    (HERE / "results" / "all.json").write_text(text + "\n", "utf-8")
    print(seconds_table(results, in_one_go()))
    print(DOCS / "benchmarks.md")


if __name__ == "__main__":
    main()
