"""Labels that do not lie on their image's grid, and grids that lie nowhere."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from networks.workflow.checks import check_cases
from tests.malformed.case import AFFINE, Case, array, labels, one_case


def moved(change: np.ndarray) -> np.ndarray:
    """The affine of a label that lies elsewhere: a change in millimetres after the image's."""
    return change @ AFFINE


def shift(x: float, y: float = 0, z: float = 0) -> np.ndarray:
    result = np.eye(4)
    result[:3, 3] = x, y, z
    return result


def turn(degrees: float, axes: tuple[int, int] = (0, 1)) -> np.ndarray:
    result, angle = np.eye(4), np.deg2rad(degrees)
    i, j = axes
    result[i, i] = result[j, j] = np.cos(angle)
    result[i, j], result[j, i] = -np.sin(angle), np.sin(angle)
    return result


def shear(amount: float) -> np.ndarray:
    result = np.eye(4)
    result[0, 1] = amount
    return result


def cases() -> Iterator[Case]:
    """Labels that do not lie on their image's grid, and grids that lie nowhere."""
    for name, affine in {
        "shifted by a voxel": moved(shift(1.5)),
        "shifted by half a voxel": moved(shift(0, 0.75)),
        "shifted by a tenth": moved(shift(0, 0, 0.3)),
        "shifted far": moved(shift(500, 500, 500)),
        "other spacing": AFFINE @ np.diag([1.1, 1, 1, 1]),
        "other thickness": AFFINE @ np.diag([1, 1, 0.5, 1]),
        "spacing of one": np.eye(4),
        "turned a little": moved(turn(2)),
        "turned by 45 degrees": moved(turn(45, (1, 2))),
        "sheared": moved(shear(0.1)),
        "flipped in place": AFFINE @ np.diag([-1, 1, 1, 1]),
        "flipped along z": AFFINE @ np.diag([1, 1, -1, 1]),
        "mirrored": np.diag([-1, 1, 1, 1.0]) @ AFFINE,
        "point reflection": -AFFINE + 2 * np.diag([0, 0, 0, 1.0]),
    }.items():
        yield Case(f"label {name}", one_case(label=array(labels(), affine)), ("labelsTr", "case0"))
    for name, affine in unusable().items():
        for kind in ("image", "label"):
            data = labels(range(120), dtype=np.int16) if kind == "image" else labels()
            both = one_case(**{kind: raw_affine(data, affine)})
            yield Case(f"{kind} affine {name}", both, ("case0", "affine"))

        def predict(folder: Path, affine: np.ndarray = affine) -> Callable[[], Any]:
            path = folder / "a.nii.gz"
            raw_affine(labels(range(120), dtype=np.int16), affine)(path)
            return lambda: check_cases([{"image": str(path)}], 1, None, None, 3)

        yield Case(f"predict affine {name}", predict, ("a.nii.gz", "affine"))


def unusable() -> dict[str, np.ndarray]:
    nan, infinite, zero, column = (AFFINE.copy() for _ in range(4))
    nan[0, 3], infinite[1, 1], zero[:3, :3], column[:3, 1] = np.nan, np.inf, 0, 0
    parallel = AFFINE.copy()
    parallel[:3, 1] = parallel[:3, 0]
    return {"nan": nan, "infinite": infinite, "zero": zero, "zero axis": column, "parallel axes": parallel}


def raw_affine(data: np.ndarray, affine: np.ndarray) -> Callable[[Path], Any]:
    """A file with an sform that nibabel's own constructor might refuse."""

    def write(path: Path) -> None:
        image = nib.Nifti1Image(data, None)
        image.header["sform_code"], image.header["qform_code"] = 1, 0
        for name, row in zip(("srow_x", "srow_y", "srow_z"), affine, strict=False):
            image.header[name] = row
        image.header["pixdim"][1:4] = 1.5, 1.5, 3
        nib.save(image, path)

    return write
