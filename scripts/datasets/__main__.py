"""Command line: ``python -m scripts.datasets <name> --source ... --output_dir ...``."""

from __future__ import annotations

from networks.errors import UserError
from networks.phantom import write_ct_phantom, write_precipitate_phantom
from scripts import command_line
from scripts.datasets.acdc import convert_acdc
from scripts.datasets.check import check
from scripts.datasets.dicom import convert_dicom
from scripts.datasets.dicom_seg import write_dicom_seg
from scripts.datasets.folder import convert_folder
from scripts.datasets.msd import convert_msd
from scripts.datasets.nasa import convert_nasa
from scripts.datasets.synapse import convert_synapse
from scripts.datasets.totalsegmentator import convert_totalsegmentator

PHANTOMS = {"ct": write_ct_phantom, "precipitate": write_precipitate_phantom}


def phantom(kind: str, output_dir: str, **options) -> None:
    """Write a phantom data set: ``ct`` (abdomens with eight organs) or ``precipitate`` (micrographs).

    Args:
        kind: ct or precipitate.
        output_dir: folder to create.
        **options: num_training, num_validation, num_test, size, seed, as in ``networks.phantom``.
    """
    if kind not in PHANTOMS:
        raise UserError(f"The phantom {kind!r} is unknown; choose {' or '.join(PHANTOMS)}.")
    print(f"Wrote {PHANTOMS[kind](str(output_dir), **options)}.")


COMMANDS = {
    "phantom": phantom,
    "synapse": convert_synapse,
    "acdc": convert_acdc,
    "msd": convert_msd,
    "nasa": convert_nasa,
    "totalsegmentator": convert_totalsegmentator,
    "folder": convert_folder,
    "dicom": convert_dicom,
    "dicom_seg": write_dicom_seg,
    "check": check,
}


if __name__ == "__main__":
    command_line.run(COMMANDS, "datasets")
