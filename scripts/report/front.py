"""The tables of results for the README."""

from networks.workflow.protocols import PROTOCOLS
from scripts.benchmark.records import RESULTS
from scripts.report.results import load
from scripts.report.sheets import overview


def microstructure_table() -> str:
    """Mean scores of the suite microstructure, or of its part for processors: both protocols, published numbers."""
    for name in ("microstructure", "microstructure_cpu"):
        path = RESULTS / f"{name}.jsonl"
        if path.is_file():
            results = load([path])
            found = [overview(results, protocol) for protocol in PROTOCOLS]
            return "\n\n".join(sheet.markdown() for sheet in found if sheet)
    return "Not run yet: `python -m scripts.experiments run suites/microstructure.json`, then `collect` the results."
