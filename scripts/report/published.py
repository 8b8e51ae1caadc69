"""Published numbers, as ``results/published.json`` has them, and whether they agree with themselves."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from decimal import Decimal

from scripts.benchmark.records import RESULTS
from scripts.catalog.bundles import BY_NAME

PATH = RESULTS / "published.json"
QUOTED = "for comparison in papers of the TransUNet line"


@dataclass(frozen=True)
class Published:
    """What one source says of one network on one data set.

    Attributes:
        network: label as in the suites.
        weights: that it started from, or empty where that is not said.
        table: where in the source.
        title: of the paper.
        url: of the paper, or empty.
        values: the number as printed, by metric and class (None for all of them).
        contradictions: for those of ``values`` that fail their own mean: a sentence that says so.
    """

    network: str
    weights: str
    table: str
    title: str
    url: str
    values: dict[tuple[str, str | None], str]
    contradictions: dict[tuple[str, str | None], str] = field(default_factory=dict)


def published(data_set: str, split: str, protocol: str, networks: Collection[str] | None) -> list[Published]:
    """The published numbers of a data set for all networks, or some; "A" is also that of a network "A, with changes".

    Names of data sets are compared without their punctuation.
    """
    found = []
    for item in json.loads(PATH.read_text(encoding="utf-8"))["results"]:
        if (_plain(item["data_set"]), item["split"], item["protocol"]) != (_plain(data_set), split, protocol):
            continue
        name = item["network"]
        if networks is not None and not any(network == name or network.startswith(f"{name},") for network in networks):
            continue
        bundle = BY_NAME.get(item["source"])
        values, contradictions = {}, {}
        for score in item["scores"]:
            key = score["metric"], score["class"]
            values[key] = score["value"]
            values |= {(score["metric"], c): value for c, value in score.get("classes", {}).items()}
            said = contradiction(score["value"], score.get("classes", {}))
            if said:
                contradictions[key] = said
        found.append(
            Published(
                network=name,
                weights=item["pretraining"] or "",
                table=item["table"],
                title=bundle.paper.title if bundle else QUOTED,
                url=bundle.paper.url if bundle else "",
                values=values,
                contradictions=contradictions,
            )
        )
    return found


def contradiction(mean: str, classes: dict[str, str]) -> str:
    """A sentence if a stated mean is not that of the same source's classes, whatever was rounded; else nothing.

    Args:
        mean: as printed.
        classes: the classes' values as printed.
    """
    if not classes:
        return ""
    values = [Decimal(value) for value in classes.values()]
    own = sum(values) / len(values)
    tolerance = _half_unit(Decimal(mean)) + sum(map(_half_unit, values)) / len(values)
    if abs(own - Decimal(mean)) <= tolerance:
        return ""
    return f"The source states {mean}, but the mean of its own {len(values)} classes is {own:.2f}."


def _half_unit(value: Decimal) -> Decimal:
    """Half a unit of the last printed digit."""
    return Decimal(5).scaleb(value.as_tuple().exponent - 1)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
