"""How metadata, documentation and model cards of packed bundles name scores, and what they say of those left out."""

import json
from pathlib import Path

from networks.workflow.records import read_records, write_records
from scripts.zoo.card import model_card
from scripts.zoo.pack import assemble
from tests.packing import BUNDLE, NAME, copy_of


def test_scores_with_flips_are_called_so(trained: Path, tmp_path: Path) -> None:
    root, bundle = copy_of(trained, tmp_path)
    plain = bundle / "eval" / "results_strict.jsonl"
    write_records(plain.with_name("results_all.jsonl"), [r | {"tta": True, "value": 0.5} for r in read_records(plain)])
    # one file of both
    write_records(plain, [*read_records(plain), *(r | {"tta": "horizontal"} for r in read_records(plain))])
    packed = assemble(BUNDLE, root=root)
    metadata = json.loads(packed.files["configs/metadata.json"])
    assert [part.get("tta") for part in metadata["evaluations"]] == [True, None, "horizontal"]
    for told in ("", " with --tta true", " with --tta horizontal"):
        assert f"mean dice (strict protocol{told}, CT phantom, test)" in metadata["eval_metrics"]
        assert f"| strict{told} | dice |" in packed.files["docs/README.md"].decode()
        assert f"dice (strict protocol{told}, mean over" in model_card(NAME, metadata, "")


def test_scores_of_images_unlike_in_training_are_called_so(trained: Path, tmp_path: Path) -> None:
    root, bundle = copy_of(trained, tmp_path)
    file = bundle / "eval" / "results_strict.jsonl"
    other = {"preset": None, "img_size": [32, 32]}
    write_records(file, [r | {"other_input": other, "tta": True} for r in read_records(file)])
    packed = assemble(BUNDLE, root=root)
    metadata = json.loads(packed.files["configs/metadata.json"])
    told = " with preset null unlike in training and img_size [32, 32] unlike in training and --tta true"
    assert metadata["evaluations"][0]["other_input"] == other
    assert f"mean dice (strict protocol{told}, CT phantom, test)" in metadata["eval_metrics"]
    assert f"| strict{told} | dice |" in packed.files["docs/README.md"].decode()
    assert f"dice (strict protocol{told}, mean over" in " ".join(model_card(NAME, metadata, "").split())


def test_cards_say_what_means_leave_out(trained: Path, tmp_path: Path) -> None:
    """Of 16 distances one is finite, then none; Dice of a class that is nowhere is missing."""
    root, bundle = copy_of(trained, tmp_path)
    file = bundle / "eval" / "results_strict.jsonl"
    records = [r | {"value": 0.5} for r in read_records(file)]
    distances = [i for i, record in enumerate(records) if record["metric"] == "hd95"]
    next(record for record in records if record["metric"] == "dice")["value"] = None
    for i in distances[1:]:
        records[i]["value"] = "inf"
    write_records(file, records)
    packed = assemble(BUNDLE, root=root)
    metadata, readme = json.loads(packed.files["configs/metadata.json"]), packed.files["docs/README.md"].decode()
    left_out = "n=1, 15 infinite, median inf"
    assert metadata["evaluations"][0]["counts"] == {"dice": "n=15, 1 missing", "hd95, mm": left_out}
    assert metadata["eval_metrics"][f"mean hd95, mm {left_out} (strict protocol, CT phantom, test)"] == 0.5
    assert f"| hd95, mm | 0.5 {left_out} |" in readme and "| iou | 0.5 |" in readme
    assert "n counts the values behind a mean" in readme
    assert f"hd95, mm {left_out} (strict protocol, mean over" in model_card(NAME, metadata, "")
    records[distances[0]]["value"] = "inf"
    write_records(file, records)
    packed = assemble(BUNDLE, root=root)
    assert "| hd95, mm | none n=0, 16 infinite, median inf |" in packed.files["docs/README.md"].decode()
