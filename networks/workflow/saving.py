"""Writing files so that none is ever half-written: writers for MONAI's ``SaveImage``, and moving finished files."""

import shutil
from pathlib import Path

from monai.data import NibabelWriter, PILWriter


class _Atomic:
    """Write to a temporary name in the same folder, then rename."""

    def write(self, filename: str | Path, verbose: bool = False, **kwargs) -> None:
        """Write the image; ``filename`` appears only when it is whole."""
        path = Path(filename)
        # the suffix chooses the format, so it stays
        temporary = path.with_name(f".part-{path.name}")
        super().write(temporary, verbose=verbose, **kwargs)  # type: ignore[misc]
        temporary.replace(path)


class AtomicNibabelWriter(_Atomic, NibabelWriter):
    """NIfTI."""


class AtomicPILWriter(_Atomic, PILWriter):
    """PNG and other pictures."""


def put_in_place(source: str | Path, target: str | Path) -> None:
    """Copy a finished file to where it belongs, replacing what is there; ``target`` is always a whole file.

    The copy has a hidden name in the folder of ``target``, which is created if need be, until it is complete.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".part-{target.name}")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
