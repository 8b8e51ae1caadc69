"""Weights that come with this repository: small files that predict right after the installation."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save

from networks.errors import UserError
from networks.state_dicts import read_weights, unwrap_state
from networks.workflow.files import atomic, file_hash, write_json
from networks.workflow.records import read_records
from scripts.catalog.bundles import BY_NAME
from scripts.catalog.classification import segmentation_bundle
from scripts.opened_bundle import SHIPPED, bundle_folder, shipped_weights
from scripts.zoo.weights import (
    Weights,
    check_fit,
    evaluations_of,
    halved,
    read_record,
    trained_bundle,
    what_was_scored,
)

LIMIT = 15e6  # bytes: what a clone of the repository can bear


def ship(bundle: str, name: str, checkpoint: str, scores: str | Sequence[str] = ()) -> Path:
    """Do what the command line describes, with the same arguments.

    Evaluations of the same weights that the record has already stay, but for those that ``scores`` has anew.

    Returns:
        The file of the weights.

    Raises:
        UserError: no such bundle; the name means something else already; the checkpoint has no record, or that is of
            other weights, or it is of another network; the file would be too large; or a file of scores has none of
            these weights.
    """
    folder, source = bundle_folder(bundle), Path(checkpoint)
    target = folder / SHIPPED / f"{name}.safetensors"
    others = [file for file in shipped_weights() if file.stem == name and file.resolve() != target]
    if others or name in BY_NAME:
        raise UserError(f"{name} is {others[0] if others else 'a bundle'} already; give the weights another name.")
    record_path = source.with_suffix(".json")
    if not source.is_file() or not record_path.is_file():
        raise UserError(f"{source} and its record {record_path.name} are not both there; give a training's model.pt.")
    record = read_record(record_path)
    if record.get("checkpoint") != file_hash(source):
        raise UserError(f"{record_path} is about other weights than {source}; give both as the training wrote them.")
    found = Weights(source, record["checkpoint"], record, (), ())
    check_fit(trained_bundle(segmentation_bundle(folder.name), found), found)
    content = save(halved(unwrap_state(read_weights(source))))
    if len(content) > LIMIT:
        raise UserError(
            f"The weights of {source} take {len(content) / 1e6:.1f} MB, more than {LIMIT / 1e6:.0f}: train a smaller "
            "network, or host them in a zoo (scripts.zoo pack)."
        )
    target_record = target.with_suffix(".json")
    checksum = hashlib.sha256(content).hexdigest()
    earlier = read_record(target_record)["evaluations"] if target_record.is_file() else []
    evaluations = [item for item in earlier if item["checkpoint"] == checksum]
    for file in scores.split(",") if isinstance(scores, str) else scores:
        own = [item for item in read_records(file) if item["checkpoint"] == checksum]
        if not own:
            raise UserError(f"{file} has no scores of {target}; evaluate exactly that file, by --ckpt_path {target}.")
        evaluations += evaluations_of(own)
    latest = {what_was_scored(item): item for item in evaluations}
    target.parent.mkdir(exist_ok=True)
    # the record first: weights are never without one, and whatever stops this in between leaves one of other weights,
    # which whoever reads both notices by the checksum
    write_json(
        target_record,
        {**record, "checkpoint": checksum, "dtype": "float16", "evaluations": list(latest.values())},
    )
    with atomic(target) as temporary:
        temporary.write_bytes(content)
    return target
