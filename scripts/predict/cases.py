"""What there is to segment below a path, and where its results go."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from networks.errors import UserError
from networks.workflow import list_images
from networks.workflow.data import IMAGE_SUFFIXES, stem
from networks.workflow.files import files_below
from scripts.datasets.dicom import find_series

SUFFIXES = {"nifti": ".nii.gz", "png": ".png", "tiff": ".tif", "dicom_seg": ".dcm"}
ENDINGS = {**{suffix: name for name, suffix in SUFFIXES.items()}, ".nii": "nifti", ".tiff": "tiff"}


@dataclass(frozen=True)
class Case:
    """One image and its results.

    Attributes:
        name: for people: the image's path below the input.
        files: the image, or the slices of a DICOM series.
        is_series: whether it is a DICOM series.
        label: label map to write.
        overlay: picture to write, or empty for none.
    """

    name: str
    files: tuple[str, ...]
    is_series: bool
    label: str
    overlay: str = ""

    @property
    def outputs(self) -> list[Path]:
        return [Path(path) for path in (self.label, self.overlay) if path]

    @property
    def is_seg(self) -> bool:
        """Whether the label map is to be a DICOM SEG."""
        return self.label.lower().endswith(SUFFIXES["dicom_seg"])

    @property
    def source(self) -> dict[str, Any]:
        """What tells the input from any other and from itself before a change: its first file, the number of files,
        their bytes, and the latest change of one in nanoseconds since 1970.
        """
        facts = [Path(file).stat() for file in self.files]
        return {
            "file": str(Path(self.files[0]).resolve()),
            "files": len(facts),
            "bytes": sum(fact.st_size for fact in facts),
            "changed_ns": max(fact.st_mtime_ns for fact in facts),
        }

    @property
    def is_done(self) -> bool:
        return all(path.is_file() for path in self.outputs)


def find_cases(source: Path, output: Path, format: str | None, is_volumes: bool, overlays: bool) -> list[Case]:
    """The images and DICOM series below a path, in the order of their names.

    Args:
        source: an image, a folder of images, a data set (its test list), a DICOM file, or a folder of DICOM series.
        output: folder for the results, or, for a single case, the file for its label map.
        format: nifti, png, tiff or dicom_seg; by default that of the input.
        is_volumes: whether the network's bundle is for volumes.
        overlays: whether pictures are wanted.

    Raises:
        UserError: there is nothing to segment, the format does not fit the input, a result would take the place of an
            input, or two cases would have the same result.
    """
    if output.name.lower().endswith(tuple(ENDINGS)) and not output.is_dir():
        cases = _single_file(_find(source, None), output, format, is_volumes, overlays)
    else:
        cases = _in_folder(source, output, format, is_volumes, overlays)
    inputs = {Path(file).resolve() for case in cases for file in case.files}
    for path in (path for case in cases for path in case.outputs):
        if path.resolve() in inputs:
            raise UserError(f"{path} is input and output; give another name for the result.")
    return cases


def _in_folder(source: Path, output: Path, format: str | None, is_volumes: bool, overlays: bool) -> list[Case]:
    if output.resolve() == source.resolve():
        raise UserError(f"{output} is input and output; give another folder for the results.")
    cases = []
    for name, files, is_series in _find(source, output):
        chosen = format or _default_format(is_series, is_volumes)
        _check_format(chosen, name, is_series, is_volumes)
        overlay = str(output / f"{stem(name)}_overlay.png") if overlays else ""
        label = str(output / f"{stem(name)}_seg{SUFFIXES[chosen]}")
        cases.append(Case(name, files, is_series, label, overlay))
    twice = [label for label, count in Counter(case.label for case in cases).items() if count > 1]
    if twice:
        both = " and ".join(case.name for case in cases if case.label == twice[0])
        raise UserError(f"{both} would both become {twice[0]}; rename one, or segment them into two folders.")
    return cases


def _single_file(
    found: Sequence[tuple[str, tuple[str, ...], bool]],
    output: Path,
    format: str | None,
    is_volumes: bool,
    overlays: bool,
) -> list[Case]:
    if len(found) != 1:
        raise UserError(f"The input holds {len(found)} cases, but {output} is one file; give a folder for the results.")
    chosen = next(name for ending, name in ENDINGS.items() if output.name.lower().endswith(ending))
    if format not in (None, chosen):
        raise UserError(f"{output} is no name for the format {format}; give it the suffix {SUFFIXES[format]}.")
    name, files, is_series = found[0]
    _check_format(chosen, name, is_series, is_volumes)
    overlay = str(output.with_name(f"{stem(output.name)}_overlay.png")) if overlays else ""
    return [Case(name, files, is_series, str(output), overlay)]


def _find(source: Path, output: Path | None) -> list[tuple[str, tuple[str, ...], bool]]:
    """Name, files, and whether it is a DICOM series."""
    if not source.exists():
        raise UserError(f"{source} does not exist; give an image, a folder of images or DICOM series, or a data set.")
    if source.is_file() and _is_dicom(source):
        return [(source.name, (str(source),), True)]
    if source.is_file() or not source.is_dir() or (source / "dataset.json").is_file():
        root = source.parent if source.is_file() else source
        return [(_name(Path(item["image"]), root), (item["image"],), False) for item in list_images(str(source))]
    found = []
    files = files_below(source, output)
    images = [path for path in files if path.name.lower().endswith(IMAGE_SUFFIXES)]
    found += [(_name(path, source), (str(path),), False) for path in images]
    known = set(files)
    if any(map(_is_dicom, known.difference(images))):
        found += _series(source, [series for series in find_series(source)[0] if series[0] in known])
    if not found:
        raise UserError(
            f"{source} holds neither images ({', '.join(IMAGE_SUFFIXES)}) nor DICOM series; give another folder."
        )
    return found


def _series(source: Path, series: Sequence[tuple[Path, ...]]) -> list[tuple[str, tuple[str, ...], bool]]:
    folders = Counter(files[0].parent for files in series)
    numbers: Counter[Path] = Counter()
    found = []
    for files in series:
        folder = files[0].parent
        numbers[folder] += 1
        name = _name(folder, source) if folder != source else source.resolve().name
        name += f"_{numbers[folder]}" if folders[folder] > 1 else ""
        found.append((name, tuple(map(str, files)), True))
    return found


def _is_dicom(path: Path) -> bool:
    if not path.is_file():  # a link that leads nowhere
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _default_format(is_series: bool, is_volumes: bool) -> str:
    if is_series:
        return "dicom_seg"
    return "nifti" if is_volumes else "png"


def _check_format(format: str, name: str, is_series: bool, is_volumes: bool) -> None:
    if format not in SUFFIXES:
        raise UserError(f"The format {format} is unknown; choose one of {', '.join(SUFFIXES)}.")
    if format == "dicom_seg" and not is_series:
        raise UserError(f"{name} is no DICOM series, so there is nothing for a DICOM SEG to refer to; choose nifti.")
    if format in ("png", "tiff") and is_volumes:
        raise UserError(
            f"A volume's label map does not fit a {format.upper()}; choose nifti, and --overlays true for pictures."
        )
