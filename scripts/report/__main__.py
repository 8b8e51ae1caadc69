"""Render results as a page and as Markdown tables: ``python -m scripts.report RESULTS...``."""

from scripts import command_line


@command_line.when_stopped("The page and the tables are whole, old or new; the same command starts anew.")
def report(
    *results: str,
    runs_dir: str = "runs",
    output: str | None = None,
    markdown: str | None = None,
    drop_pictures: bool = False,
) -> None:
    """Write a self-contained HTML page and a Markdown file of the same tables.

    Args:
        *results: files of scores, such as results/SUITE.jsonl; the file of runs beside each is read too.
        runs_dir: folder of the suites' runs, for pictures of their predictions.
        output: page to write; docs/reports/SUITE.html by default.
        markdown: file of the tables; the page's name with .md by default. In another folder it names the command that
            makes the page instead of linking it.
        drop_pictures: replace a page even if it has pictures of cases that cannot be drawn here, such as without the
            runs or the data sets.
    """
    from scripts.report import page

    page.report(*results, runs_dir=runs_dir, output=output, markdown=markdown, drop_pictures=drop_pictures)


COMMANDS = report

if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.report")
