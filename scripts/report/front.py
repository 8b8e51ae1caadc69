"""The tables of results for the README."""

from networks.workflow.protocols import PROTOCOLS
from scripts.benchmark.records import RESULTS
from scripts.report.results import load
from scripts.report.sheets import overview


def microstructure_table() -> str:
    """Mean scores of the suite microstructure_robust in both protocols, with published numbers."""
    results = load([RESULTS / "microstructure_robust.jsonl"])
    found = [overview(results, protocol) for protocol in reversed(PROTOCOLS)]
    return "\n\n".join(sheet.markdown() for sheet in found if sheet)
