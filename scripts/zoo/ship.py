"""Weights that come with this repository: small files that predict right after the installation."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, float16

from networks.errors import UserError
from networks.state_dicts import read_weights, unwrap_state
from networks.workflow.files import atomic, file_hash, write_json
from networks.workflow.records import read_records
from scripts.opened_bundle import SHIPPED, bundle_folder
from scripts.zoo.weights import EVALUATION_IDS, evaluations_of, read_record

LIMIT = 15e6  # bytes: what a clone of the repository can bear


def ship(bundle: str, name: str, checkpoint: str, scores: str | Sequence[str] = ()) -> Path:
    """Do what the command line describes, with the same arguments.

    Evaluations of the same weights that the record has already stay, but for those that ``scores`` has anew.

    Returns:
        The file of the weights.

    Raises:
        UserError: no such bundle; the checkpoint has no record, or that is of other weights; the file would be too
            large; or a file of scores has none of these weights.
    """
    source = Path(checkpoint)
    record_path = source.with_suffix(".json")
    if not source.is_file() or not record_path.is_file():
        raise UserError(f"{source} and its record {record_path.name} are not both there; give a training's model.pt.")
    record = read_record(record_path)
    if record.get("checkpoint") != file_hash(source):
        raise UserError(f"{record_path} is about other weights than {source}; give both as the training wrote them.")
    content = save({key: _half(tensor) for key, tensor in unwrap_state(read_weights(source)).items()})
    if len(content) > LIMIT:
        raise UserError(
            f"The weights of {source} take {len(content) / 1e6:.1f} MB, more than {LIMIT / 1e6:.0f}: train a smaller "
            "network, or host them in a zoo (scripts.zoo pack)."
        )
    target = bundle_folder(bundle) / SHIPPED / f"{name}.safetensors"
    target_record = target.with_suffix(".json")
    checksum = hashlib.sha256(content).hexdigest()
    earlier = read_record(target_record)["evaluations"] if target_record.is_file() else []
    evaluations = [item for item in earlier if item["checkpoint"] == checksum]
    for file in scores.split(",") if isinstance(scores, str) else scores:
        own = [item for item in read_records(file) if item["checkpoint"] == checksum]
        if not own:
            raise UserError(f"{file} has no scores of {target}; evaluate exactly that file, by --ckpt_path {target}.")
        evaluations += evaluations_of(own)
    latest = {tuple(item.get(key) for key in EVALUATION_IDS): item for item in evaluations}
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


def _half(tensor: Tensor) -> Tensor:
    return (tensor.to(float16) if tensor.is_floating_point() else tensor).contiguous()
