"""Variants: which network, weights and recipe a record is of, and names that tell them apart."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from networks.errors import UserError
from networks.workflow.records import Record, read_records

SCRATCH = "none"


@dataclass(frozen=True)
class Variant:
    """What is compared: a network from certain weights by a certain recipe.

    Attributes:
        network: its label.
        weights: that it starts from; empty where that is not known.
        recipe: label of the recipe, or empty.
        name: unlike that of any other variant of the report.
    """

    network: str
    weights: str
    recipe: str
    name: str


def identity(item: Record) -> tuple[str, str, str]:
    """What tells variants apart: network, weights and recipe, the latter two empty where they are not known."""
    return item["model"], item.get("pretraining") or "", item.get("recipe") or ""


def find_variants(items: Iterable[Record]) -> dict[tuple[str, str, str], Variant]:
    """The variants of records by network, weights and recipe."""
    found = dict.fromkeys(identity(item) for item in items)
    several = len({recipe for _, _, recipe in found}) > 1
    variants = {}
    for network, pretraining, recipe in found:
        weights = "from scratch" if pretraining == SCRATCH else pretraining
        details = [part for part in (weights, recipe if several else "") if part]
        name = f"{network} ({', '.join(details)})" if details else network
        variants[network, pretraining, recipe] = Variant(network, weights, recipe, name)
    return variants


def name_variants(records: Iterable[Record], variants: dict[tuple[str, str, str], Variant]) -> list[Record]:
    """The records with their variants' names as models, and the data sets' labels in the suite as data sets."""
    return [
        record | {"model": variants[identity(record)].name, "dataset": record.get("data_set") or record["dataset"]}
        for record in records
    ]


def read_named(results: Sequence[str]) -> list[Record]:
    """The records of result files, with the names of their variants as models.

    Raises:
        UserError: no file is given, one does not exist, or a line is no record.
    """
    if not results:
        raise UserError("No file was given; name one or more files of results (.jsonl).")
    records = [record for path in results for record in read_records(str(path))]
    return name_variants(records, find_variants(records))
