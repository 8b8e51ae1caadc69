"""What metadata and documents say of the weights that come with a bundle (``scripts.zoo ship``)."""

import json
import textwrap
from typing import Any

from networks.workflow.protocols import told_means, told_options
from networks.workflow.provenance import start_of
from scripts.catalog.bundles import Bundle
from scripts.opened_bundle import ROOT, SHIPPED
from scripts.render.bundle import NO_WEIGHTS

Record = dict[str, Any]


def shipped_records(bundle: Bundle) -> dict[str, Record]:
    """The records of a bundle's weights by their names."""
    files = sorted((ROOT / "bundles" / bundle.name / SHIPPED).glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def statement(records: dict[str, Record]) -> str:
    """The sentence about a bundle's weights."""
    if not records:
        return NO_WEIGHTS
    data = "; ".join(f"{name} (trained on {record['data_set']['name']})" for name, record in records.items())
    return f"Small weights come with this bundle, in {SHIPPED}/: {data}."


def data_licences(records: dict[str, Record]) -> str:
    """What ``docs/data_license.txt`` says of the data that weights were trained on; empty where nothing is known."""
    texts = []
    for name, record in records.items():
        data = record["data_set"]
        if data.get("licence"):
            about = f" ({data['description'].rstrip('.')})" if data.get("description") else ""
            texts.append(f"{SHIPPED}/{name}.safetensors was trained on {data['name']}{about}: {data['licence']}\n")
    return "".join(texts)


def section(records: dict[str, Record]) -> str:
    """The part of a bundle's documentation about them; empty where there are none."""
    if not records:
        return ""
    parts = ["## Weights that come with it\n"]
    for name, record in records.items():
        data, ids = record["data_set"], record["ids"]
        text = (
            f"`{SHIPPED}/{name}.safetensors`, in half precision: trained on {data['training']} cases of {data['name']} "
            f"({data.get('description', '').rstrip('.')}), {data['validation']} for validation, by the preset "
            f"`{ids['preset']}`{start_of(record)}."
        )
        licence = f" Licence of the data: {data['licence']}." if data.get("licence") else ""
        parts.append(textwrap.fill(text + licence, 120, break_long_words=False, break_on_hyphens=False) + "\n")
        parts.append(f"```bash\npython -m scripts.predict IMAGES OUTPUT --trained {name}\n```\n")
        rows = ["| protocol | list | cases | scores, means over cases and classes |", "| --- | --- | --- | --- |"]
        for scored in record["evaluations"]:
            scores = ", ".join(f"{metric} {mean}" for metric, mean in told_means(scored, 4).items())
            how, where = f"{scored['protocol']}{told_options(scored)}", f"{scored['data_set']}, {scored['split']}"
            rows.append(f"| {how} | {where} | {scored['cases']} | {scores} |")
        if record["evaluations"]:
            parts.append("\n".join(rows) + "\n")
    return "\n".join(parts) + "\n"
