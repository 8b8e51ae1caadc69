"""The two protocols of scores, which ``networks.workflow.scores`` explains; nothing here needs more than Python."""

import json
from collections.abc import Mapping
from typing import Any

from networks.errors import UserError

PROTOCOLS = ("strict", "paper")
TOLERANCE = 2.0
"""Distance within which the normalised surface Dice takes two surfaces for the same, in mm or pixels."""


def check_protocol(protocol: str) -> None:
    """Raise UserError for a protocol that does not exist."""
    if protocol not in PROTOCOLS:
        raise UserError(f"The protocol {protocol!r} is unknown; choose {' or '.join(PROTOCOLS)}.")


def told_options(scored: Mapping[str, Any]) -> str:
    """What a record or an evaluation says of images that were prepared unlike in training, and of flips at test time.

    Returns:
        Words to stand behind its protocol or its model; empty where it says nothing of either.
    """
    other = scored.get("other_input") or {}
    options = [f"{name} {json.dumps(value)} unlike in training" for name, value in other.items()]
    if tta := scored.get("tta"):
        options.append(f"--tta {str(tta).lower()}")
    return f" with {' and '.join(options)}" if options else ""


def told_counts(evaluation: Mapping[str, Any], metric: str) -> str:
    """What the mean of a metric leaves out, to stand behind it, as in tables of scores; empty where that is nothing."""
    counts = evaluation.get("counts", {}).get(metric)
    return f" {counts}" if counts else ""


def told_means(evaluation: Mapping[str, Any], digits: int) -> dict[str, str]:
    """The means of an evaluation by metric, each with what it leaves out; "none" where no value is finite."""
    means = {metric: f"{mean:.{digits}g}" for metric, mean in evaluation["scores"].items()}
    means |= {metric: "none" for metric in evaluation.get("counts", ()) if metric not in means}
    return {metric: mean + told_counts(evaluation, metric) for metric, mean in means.items()}
