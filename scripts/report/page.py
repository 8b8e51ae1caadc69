"""Writing the page of a report and the Markdown file of its tables."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.files import atomic
from networks.workflow.protocols import PROTOCOLS
from scripts.benchmark.records import RESULTS, read_records
from scripts.report import cost, figures, panels, ran, sheets
from scripts.report.results import Results, load

BENCHMARK = RESULTS / "benchmark_cpu.jsonl"
REPORTS = Path("docs/reports")
EXPLAINED = {
    "Strict": "MONAI's metrics per case and class; a class that only the truth or only the prediction has scores zero, "
    "or infinitely far. Means are over the finite values; what they leave out is counted beside them.",
    "Paper": "What the code behind the published numbers computes, quirks included. Only this protocol's scores can be "
    "held against published ones, which come from the authors' own trainings.",
    "Intervals": "95 % percentile bootstrap over the patients, over the cases where their names tell no patients; too "
    "narrow with a handful of them. Several seeds of a network are averaged per case first.",
    "Bold": "The best mean of a column, whatever the intervals say.",
}
Block = dict[str, Any]


def report(
    *results: str,
    runs_dir: str = "runs",
    output: str | None = None,
    markdown: str | None = None,
    drop_pictures: bool = False,
) -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: no results, or the page that is there has pictures that would be lost.
    """
    read = load([str(path) for path in results])
    stem = "_".join(read.suites) or Path(str(results[0])).stem
    page = Path(output or REPORTS / f"{stem}.html")
    text = Path(markdown or page.with_suffix(".md"))
    account = ran.account(read)
    sections = _sections(read, account, runs_dir)
    html = _environment().get_template("page.html").render(account=account, sections=sections, explained=EXPLAINED)
    if page.is_file() and not drop_pictures:
        _check_pictures(page, html, runs_dir)
    # tables may be published where pages of a megabyte are not, such as in a repository of sources
    together = page.parent.resolve() == text.parent.resolve()
    drawn = f"[{page.name}]({page.name})" if together else f"`python -m scripts.report {' '.join(map(str, results))}`"
    for path, content in ((page, html), (text, _markdown(account, sections, drawn))):
        with atomic(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
        print(f"Wrote {path} ({path.stat().st_size / 1e6:.2f} MB).")


def _check_pictures(page: Path, html: str, runs_dir: str) -> None:
    """Raise UserError if the page that is there has more pictures of cases in a section than the new one has."""
    before, after = _pictures(page.read_text(encoding="utf-8", errors="replace")), _pictures(html)
    lost = {anchor: count - after[anchor] for anchor, count in before.items() if count > after[anchor]}
    if lost:
        raise UserError(
            f"{page} has {sum(lost.values())} pictures of cases (in {', '.join(lost)}) that cannot be drawn from "
            f"{runs_dir}, so it was left as it is; give --runs_dir the runs, --output another page, or "
            "--drop_pictures true."
        )


def _pictures(html: str) -> Counter[str]:
    """How many pictures of cases, which alone are JPEG, a page has in each of its sections."""
    sections = re.split(r'<section id="([^"]*)">', html)
    counts = [text.count('src="data:image/jpeg') for text in sections[2::2]]
    return Counter(dict(zip(sections[1::2], counts, strict=True)))


def _sections(results: Results, account: ran.Ran, runs_dir: str) -> list[Block]:
    """Title, anchor and blocks of each section; a block has one of the keys text, sheet, figures, panels."""
    look = figures.Look(results)
    overviews = [sheet for protocol in PROTOCOLS if (sheet := sheets.overview(results, protocol))]
    sections = [_section("Overview", [{"sheet": sheet} for sheet in overviews])]
    run_blocks = [{"text": " ".join(account.sentences)}]
    run_blocks += [{"sheet": account.sheet}] if account.sheet else []
    sections.append(_section("What was run", run_blocks))
    sources, sentences = panels.find_sources(results, runs_dir)
    side = panels.choose_side(list(sources.values()))
    curves_shown = set()
    for data_set in tqdm(results.data_sets, desc="Data sets", unit="data set", leave=False):
        blocks: list[Block] = []
        for protocol in PROTOCOLS:
            blocks += [{"sheet": sheet} for sheet in sheets.score_sheets(results, data_set, protocol)]
        blocks.append({"figures": figures.box_plots(data_set, look)})
        comparison = sheets.comparison_sheet(data_set)
        blocks += [{"sheet": comparison}] if comparison else []
        if data_set.name not in curves_shown:
            curves_shown.add(data_set.name)
            blocks.append({"figures": figures.learning_curves(data_set.name, results.runs, look)})
        if data_set.title in sources:
            blocks.append({"panels": panels.panels(sources[data_set.title], side)})
        title = f"{data_set.title}: {data_set.setting}" if data_set.setting else data_set.title
        sections.append(_section(title, blocks))
    sections.append(_section("Cost against accuracy", _cost(results, look)))
    if sentences:
        sections.append(_section("Not shown", [{"text": " ".join(sentences)}]))
    return [section for section in sections if section["blocks"]]


def _cost(results: Results, look: figures.Look) -> list[Block]:
    records = read_records(BENCHMARK)
    sheet = cost.cost_sheet(results.runs, records)
    if sheet is None:
        return []
    found = []
    for data_set in results.data_sets:
        if data_set.split == "test":
            axis, values = cost.costs(results, data_set.name, records)
            found.append(figures.cost_figure(data_set, values, axis, look))
    return [{"sheet": sheet}, {"figures": [figure for figure in found if figure]}]


def _section(title: str, blocks: list[Block]) -> Block:
    anchor = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return {"title": title, "anchor": anchor, "blocks": [block for block in blocks if any(block.values())]}


def _markdown(account: ran.Ran, sections: list[Block], drawn: str) -> str:
    """The tables and sentences; pictures are on the page, which is linked or made by a command."""
    explained = "\n".join(f"- {term}: {text}" for term, text in EXPLAINED.items())
    parts = [f"# {account.title}", account.description, explained, f"Curves, box plots and pictures: {drawn}."]
    for section in sections:
        texts = [
            block["sheet"].markdown() if "sheet" in block else block.get("text", "") for block in section["blocks"]
        ]
        if any(texts):
            parts += [f"## {section['title']}", *filter(None, texts)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _environment() -> jinja2.Environment:
    folder = Path(__file__).resolve().parent
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
