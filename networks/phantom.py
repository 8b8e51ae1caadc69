"""Phantom data sets: something to train on before any real data set is at hand.

Two are written in the layout of the Medical Segmentation Decathlon (a ``dataset.json`` beside the files): CT-like
abdomens with the eight organs of the Synapse multi-organ papers, and micrographs of a two-phase alloy. They are for
trying the software. No score on them is evidence of a network's accuracy, and their ``dataset.json`` says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from PIL import Image

from networks.class_names import ORGANS, PRECIPITATES
from networks.errors import UserError

NOT_EVIDENCE = "A phantom for trying the software: no score on it is evidence of accuracy."

Vector = Sequence[float] | np.ndarray

_FIELD_OF_VIEW = (345.0, 345.0, 165.0)  # mm from right to left, back to front, bottom to top
_ORIENTATIONS = ("RAS", "LPS", "LAS", "RPI")  # as scanners and converters leave them; the third axis stays the slices
# Centre and half axes in mm (x to the right, y to the front, z to the head, origin in the middle of the body), the
# rotation about z in degrees, and the range of the attenuation in HU (portal venous phase).
_ELLIPSOIDS = {
    "liver": ((70, 10, 30), (68, 68, 58), 10, (92, 118)),
    "stomach": ((-48, 42, 26), (42, 27, 38), 35, (22, 48)),
    "spleen": ((-94, -22, 36), (24, 44, 40), -25, (105, 130)),
    "left kidney": ((-58, -44, -8), (25, 27, 50), 25, (140, 180)),
    "right kidney": ((60, -44, -24), (25, 27, 50), -25, (140, 180)),
    "gallbladder": ((46, 52, -20), (15, 20, 24), 20, (4, 18)),
}


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that takes its name when the block ends without an error.

    A reader so never sees a half-written folder under the final name. When the block fails, the temporary folder is
    removed; when the process is killed it stays behind under a name that starts with a dot, and nobody reads it.

    Raises:
        UserError: ``path`` exists and is not an empty folder, before or after the block.
    """
    path = Path(path).absolute()
    _refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        try:
            temporary.rename(path)  # replaces an empty folder, fails on any other
        except OSError:
            _refuse_existing(path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_existing(path: Path) -> None:
    if path.exists() and not (path.is_dir() and next(path.iterdir(), None) is None):
        raise UserError(f"{path} already exists and is not an empty folder; choose another or remove it first.")


def write_ct_phantom(
    dataset_dir: str | os.PathLike,
    num_training: int = 12,
    num_validation: int = 4,
    num_test: int = 4,
    size: Sequence[int] = (112, 112, 28),
    spacing: Sequence[float] | None = None,
    seed: int = 0,
) -> Path:
    """Write CT-like abdomens (int16, HU) with eight organs (uint8, ids in the order of ``ORGANS``) as NIfTI files.

    Shapes, positions, sizes, attenuation, noise and body size differ from case to case, and so do the spacing (by a
    few per cent), the origin and the orientation in which the array is stored. The same seed gives the same voxels.

    Args:
        dataset_dir: folder to create; ``imagesTr``, ``labelsTr`` and so on and ``dataset.json`` come into it.
        size: voxels from right to left, back to front, bottom to top.
        spacing: mm per voxel along these axes, before the variation; by default such that the body fills the volume.
        seed: start of the random numbers.

    Raises:
        UserError: ``dataset_dir`` exists and is not empty.
        UserError: the volume is too small or too coarse to hold every organ.
    """
    mean_spacing = np.asarray(_FIELD_OF_VIEW) / np.asarray(size) if spacing is None else np.asarray(spacing, float)

    def write_case(index: int, image_path: Path, label_path: Path) -> None:
        rng = np.random.default_rng([seed, index])
        case_spacing = mean_spacing * rng.uniform(0.97, 1.04, 3).round(3)
        image, label = _abdomen(rng, size, case_spacing)
        missing = [name for i, name in enumerate(ORGANS, 1) if not (label == i).any()]
        if missing:
            raise UserError(f"A phantom of size {tuple(size)} is too small to hold: {', '.join(missing)}.")
        affine = np.diag([*case_spacing, 1.0])
        affine[:3, 3] = -case_spacing * (np.asarray(size) - 1) / 2 + rng.uniform(-40, 40, 3).round(1)
        stored = nib.orientations.axcodes2ornt(_ORIENTATIONS[index % len(_ORIENTATIONS)])
        for array, path in ((image, image_path), (label, label_path)):
            nifti = nib.Nifti1Image(array, affine)
            nifti.header.set_xyzt_units("mm")
            transform = nib.orientations.ornt_transform(nib.io_orientation(affine), stored)
            nib.save(nifti.as_reoriented(transform), path)

    return _write(
        dataset_dir,
        {
            "name": "CT phantom",
            "description": f"Synthetic CT-like abdomens with eight organs. {NOT_EVIDENCE}",
            "tensorImageSize": "3D",
            "modality": {"0": "CT"},
            "labels": {"0": "background", **{str(i): name for i, name in enumerate(ORGANS, 1)}},
        },
        (num_training, num_validation, num_test),
        ".nii.gz",
        write_case,
    )


def write_precipitate_phantom(
    dataset_dir: str | os.PathLike,
    num_training: int = 12,
    num_validation: int = 4,
    num_test: int = 4,
    size: Sequence[int] = (256, 256),
    seed: int = 0,
) -> Path:
    """Write micrograph-like images of two-phase precipitates: grey RGB PNG files and indexed PNG labels (8 bit).

    Labels are 0 matrix, 1 secondary precipitates (large, rounded cubes), 2 tertiary precipitates (small discs between
    them). The same seed gives the same pixels.

    Args:
        dataset_dir: folder to create, as in ``write_ct_phantom``.
        size: height and width in pixels.
        seed: start of the random numbers.

    Raises:
        UserError: ``dataset_dir`` exists and is not empty.
    """

    def write_case(index: int, image_path: Path, label_path: Path) -> None:
        image, label = _micrograph(np.random.default_rng([seed, index]), size)
        Image.fromarray(np.repeat(image[..., None], 3, axis=2)).save(image_path)
        Image.fromarray(label).save(label_path)

    return _write(
        dataset_dir,
        {
            "name": "Precipitate phantom",
            "description": f"Synthetic micrographs of secondary and tertiary precipitates. {NOT_EVIDENCE}",
            "tensorImageSize": "2D",
            "modality": {"0": "SEM"},
            "labels": {"0": "matrix", **{str(i): name for i, name in enumerate(PRECIPITATES, 1)}},
        },
        (num_training, num_validation, num_test),
        ".png",
        write_case,
    )


def ensure_ct_phantom(dataset_dir: str | os.PathLike, **kwargs) -> str:
    """Write the CT phantom unless ``dataset_dir`` holds a data set already, and return ``dataset_dir``.

    Several processes may call it at once: each writes its own copy, the first one to finish gives the folder its name.

    Raises:
        UserError: the folder holds files but no ``dataset.json``; nothing is written into it.
    """
    return _ensure(dataset_dir, write_ct_phantom, kwargs)


def ensure_precipitate_phantom(dataset_dir: str | os.PathLike, **kwargs) -> str:
    """As ``ensure_ct_phantom``, for the micrographs of ``write_precipitate_phantom``."""
    return _ensure(dataset_dir, write_precipitate_phantom, kwargs)


def _ensure(dataset_dir: str | os.PathLike, write: Callable[..., Path], kwargs: dict) -> str:
    index = Path(dataset_dir) / "dataset.json"
    if index.is_file():
        return str(dataset_dir)
    try:
        write(dataset_dir, **kwargs)
    except UserError:
        if index.is_file():  # another process was faster
            return str(dataset_dir)
        raise
    print(f"Wrote a phantom data set to {dataset_dir}: for trying the software, scores on it mean nothing.", flush=True)
    return str(dataset_dir)


def _write(
    dataset_dir: str | os.PathLike,
    description: dict,
    counts: tuple[int, int, int],
    suffix: str,
    write_case: Callable[[int, Path, Path], None],
) -> Path:
    """Write the cases of the three lists with ``write_case`` and ``dataset.json`` last."""
    lists: dict[str, list[dict[str, str]]] = {}
    index = 0
    with new_folder(dataset_dir) as folder:
        for (key, end), count in zip((("training", "Tr"), ("validation", "Va"), ("test", "Ts")), counts, strict=True):
            lists[key] = []
            for kind in ("images", "labels"):
                (folder / f"{kind}{end}").mkdir()
            for _ in range(count):
                item = {kind: f"./{kind}s{end}/phantom_{index:03d}{suffix}" for kind in ("image", "label")}
                write_case(index, folder / item["image"], folder / item["label"])
                lists[key].append(item)
                index += 1
        numbers = {f"num{key.capitalize()}": len(items) for key, items in lists.items()}
        text = json.dumps({**description, **numbers, **lists}, indent=4)
        (folder / "dataset.json").write_text(text + "\n", encoding="utf-8")
    return Path(dataset_dir)


def _smooth(rng: np.random.Generator, shape: Sequence[int], cells: Sequence[int], scale: float = 1.0) -> np.ndarray:
    """Smooth noise of deviation about ``scale``: a coarse grid of ``cells`` normal numbers, interpolated."""
    coarse = torch.from_numpy(rng.standard_normal(cells)).float()[None, None]
    mode = "trilinear" if len(shape) == 3 else "bicubic"
    fine = torch.nn.functional.interpolate(coarse, size=tuple(shape), mode=mode, align_corners=True)
    return fine[0, 0].numpy() * (scale * 1.3)  # interpolation shrinks the deviation


def _blur(array: np.ndarray, sigma: float) -> np.ndarray:
    from monai.networks.layers import GaussianFilter  # here, as data sets are read without MONAI

    tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None, None]
    return GaussianFilter(array.ndim, sigma)(tensor)[0, 0].numpy()


def _ellipsoid(point: np.ndarray, centre: Vector, axes: Vector, degrees: float = 0.0) -> np.ndarray:
    """Relative distance from the centre, 1 on the surface, of points (3, ...); rotated about the third axis."""
    x, y, z = (point[i] - centre[i] for i in range(3))
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.sqrt(((cos * x + sin * y) / axes[0]) ** 2 + ((cos * y - sin * x) / axes[1]) ** 2 + (z / axes[2]) ** 2)


def _abdomen(rng: np.random.Generator, size: Sequence[int], spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One volume (HU, int16) and its labels (uint8), both (right-going, front-going, head-going)."""
    grid = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * s for n, s in zip(size, spacing, strict=True)), indexing="ij")
    # A smooth warp gives everything an irregular outline; the body's own size varies as well.
    body_scale = rng.uniform(0.9, 1.05, 3)
    p = np.stack([g / s + _smooth(rng, size, (6, 6, 5), 3.0) for g, s in zip(grid, body_scale, strict=True)])
    x, y, z = p
    hu = np.full(tuple(size), -1000.0, np.float32)
    label = np.zeros(tuple(size), np.uint8)
    soft = rng.normal(0, 4)  # the scan's own offset of soft tissue

    # Skin, fat, the muscular wall with ribs, and fat again between the organs.
    radius = (np.abs(x / 156) ** 2.3 + np.abs(y / 108) ** 2.3) ** (1 / 2.3)
    wall = 1 - rng.uniform(0.06, 0.16)  # a thin or a thick layer of fat under the skin
    inner = wall - 0.11
    hu[radius < 1] = 20
    hu[radius < 0.985] = rng.normal(-105, 5)
    hu[radius < wall] = 55 + soft
    from_back = np.arctan2(np.abs(x) / 156, -y / 108)
    rib = np.abs((z / 30 + 1.1 * from_back + rng.uniform()) % 1 - 0.5) < 0.17
    hu[rib & (np.abs(radius - wall + 0.055) < 0.03) & (z > 60 * from_back - 105) & (from_back < 2.4)] = 420
    cavity = radius < inner
    hu[cavity] = rng.normal(-95, 5)
    hu[cavity & (z > 92 - 75 * np.maximum(radius - 0.35, 0) + 0.3 * y)] = -820  # the lungs' lower ends

    def shifted(centre: Sequence[float], deviation: float) -> np.ndarray:
        return np.asarray(centre) + rng.normal(0, deviation, 3).clip(-2 * deviation, 2 * deviation)

    # Loops of bowel with gas in the upper part of some, since the patient lies on the back.
    for _ in range(14):
        centre = np.array([rng.uniform(-95, 95), rng.uniform(0, 65), rng.uniform(-85, -25)])
        axes = rng.uniform(13, 22, 3)
        loop = _ellipsoid(p, centre, axes)
        hu[cavity & (loop < 1)] = rng.uniform(25, 60)
        if rng.random() < 0.4:
            hu[cavity & (loop < 0.75) & (y > centre[1])] = -850
    hu[cavity & (_ellipsoid(p, (-28, 34, 112), (55, 42, 46), 20) < 1)] = rng.uniform(120, 160)  # the heart's lower end
    for side in (-1, 1):  # psoas and the muscles of the back
        hu[_ellipsoid(p, (side * 38, -50, -60), (17, 20, 70)) < 1] = 58 + soft
        hu[_ellipsoid(p, (side * 34, -84, 0), (30, 17, 400)) < 1] = 58 + soft

    # Organs: the small and the hard-edged later, so that each of them keeps its place.
    def paint(name: str, where: np.ndarray, value: np.ndarray | float) -> None:
        where &= radius < inner - 0.01
        hu[where] = (value + np.zeros_like(hu))[where]
        label[where] = ORGANS.index(name) + 1

    bone = (_ellipsoid(p, (0, -52, 0), (24, 18, 400)) < 1) | (_ellipsoid(p, (0, -82, 0), (7, 20, 400)) < 1)
    vessels = np.abs(_smooth(rng, size, (11, 11, 8))) + np.abs(_smooth(rng, size, (11, 11, 8))) < 0.22
    for name, (usual, half_axes, degrees, (low, high)) in _ELLIPSOIDS.items():
        centre = shifted(usual, 4)
        axes = np.asarray(half_axes) * rng.uniform(0.9, 1.12, 3) * rng.uniform(0.94, 1.06)
        distance = _ellipsoid(p, centre, axes, degrees + rng.normal(0, 6))
        value = np.full(hu.shape, rng.uniform(low, high) + soft)
        inside = distance < 1
        if name == "liver":
            left_lobe = _ellipsoid(p, shifted((4, 48, 42), 4), np.array((58, 28, 34)) * rng.uniform(0.9, 1.1), -12)
            inside |= left_lobe < 1
            value[vessels] += 45
        elif name == "stomach":
            value[distance > 0.85] += 40
            if rng.random() < 0.7:
                value[(distance < 0.8) & (y > centre[1] + rng.uniform(4, 16))] = -900
        elif name.endswith("kidney"):
            value[distance < 0.7] -= 35
            sinus = np.array(centre) - np.array((np.sign(centre[0]) * 12, -4, 0))  # towards the spine
            inside &= _ellipsoid(p, sinus, (11, 9, 18)) > 1
        paint(name, inside & ~bone, value)
        if name == "spleen":  # next in depth: the pancreas, in front of spleen and left kidney
            _paint_pancreas(rng, p, paint, shifted, soft)
    cava = _ellipsoid(p, shifted((21, -22, 0), 2), (12, 10, 400)) < 1
    hu[cava] = rng.uniform(100, 150)  # close to the aorta in place and value, and no class
    label[cava | bone] = 0
    hu[bone] = np.where(np.abs((z / 32 + 0.3) % 1 - 0.5) < 0.38, rng.uniform(190, 330), 95)[bone]  # vertebrae, discs
    hu[_ellipsoid(p, (0, -70, 0), (8, 7, 400)) < 1] = 30  # the spinal canal
    middle = shifted((-12, -22, 0), 2)
    bend = middle[0] + 4 * np.sin(z / 40 + rng.uniform(0, 6))
    paint("aorta", np.hypot(x - bend, y - middle[1]) < rng.uniform(9.5, 12.5), rng.uniform(140, 210))

    hu[(np.abs(grid[1] + 132) < 4) & (np.abs(grid[0]) < 150)] = -150  # the table
    image = _blur(hu, 0.55) + _smooth(rng, size, (4, 4, 3), 5.0)  # partial volume, beam hardening
    image += _blur(rng.standard_normal(tuple(size)), 0.5) * rng.uniform(14, 30)
    return image.round().clip(-1024, 3071).astype(np.int16), label


def _paint_pancreas(rng: np.random.Generator, p: np.ndarray, paint: Callable, shifted: Callable, soft: float) -> None:
    """A bent sausage from the head beside the duodenum, across the aorta, to the tail near the spleen."""
    points = [shifted(c, 2.5) for c in ((34, 10, -20), (22, 18, -4), (0, 16, 6), (-28, 6, 12), (-58, -8, 20))]
    thickness = rng.uniform(0.9, 1.1) * np.array((15, 13, 10, 10.5, 11))
    inside = np.zeros(p.shape[1:], bool)
    for t in np.linspace(0, len(points) - 1, 25):
        i = min(int(t), len(points) - 2)
        centre = points[i] + (t - i) * (points[i + 1] - points[i])
        r = thickness[i] + (t - i) * (thickness[i + 1] - thickness[i])
        inside |= _ellipsoid(p, centre, (r, r, r)) < 1
    paint("pancreas", inside, rng.uniform(78, 102) + soft)


def _micrograph(rng: np.random.Generator, size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """One grey micrograph and its labels, both uint8 (height, width)."""
    height, width = size
    grid = np.meshgrid(np.arange(height, dtype=float), np.arange(width, dtype=float), indexing="ij")
    angle, pitch = rng.uniform(0, np.pi / 2), rng.uniform(30, 44)  # the cubes share the crystal's axes
    cos, sin = np.cos(angle), np.sin(angle)
    row, col = (g + _smooth(rng, size, (9, 9), 3.0) for g in grid)
    u, v = cos * row + sin * col, cos * col - sin * row

    def window(centre: Sequence[float], radius: float) -> tuple[slice, ...]:
        return tuple(slice(max(int(c - radius), 0), max(int(c + radius) + 2, 0)) for c in centre)

    # Cubes on a jittered grid, with narrow channels of matrix between them.
    distance = np.full((height, width), 9.0)  # relative to the nearest cube, 1 on its edge
    reach = int(np.hypot(height, width) / pitch) + 2
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            cu, cv = (np.array((i + 0.5 * (j % 2), j)) + rng.normal(0, 0.05, 2)) * pitch
            half = pitch * rng.uniform(0.31, 0.44, 2)
            power = rng.uniform(3, 5)
            at = window((cos * cu - sin * cv, sin * cu + cos * cv), pitch)
            cube = np.abs((u[at] - cu) / half[0]) ** power + np.abs((v[at] - cv) / half[1]) ** power
            distance[at] = np.minimum(distance[at], cube ** (1 / power))
    label = (distance < 1).astype(np.uint8)

    # Small discs where the channels are wide enough, until they cover about three per cent.
    area, wanted = 0, rng.uniform(0.02, 0.035) * label.size
    for _ in range(20 * height):
        r = rng.uniform(1.5, 3.2)
        centre = rng.uniform(0, height), rng.uniform(0, width)
        at = window(centre, r + 3)
        near = np.hypot(grid[0][at] - centre[0], grid[1][at] - centre[1])
        if not label[at][near < r + 1.5].any():
            label[at][near < r] = 2
            area += (near < r).sum()
        if area > wanted:
            break

    levels = rng.uniform(125, 165), rng.uniform(60, 100), rng.uniform(65, 105)  # matrix, secondary, tertiary
    grey = np.choose(label, levels) + 22 * np.exp(-(((distance - 1) / 0.06) ** 2))  # edges are bright
    grey = _blur(grey, 0.9) + _smooth(rng, size, (5, 5), 7.0)
    grey += _blur(rng.standard_normal(size), 0.5) * rng.uniform(12, 26)
    return grey.round().clip(0, 255).astype(np.uint8), label
