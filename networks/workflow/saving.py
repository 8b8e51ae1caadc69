"""Writing files so that none is ever half-written: the writers of MONAI's ``SaveImage``, and moving finished files."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monai.data import ImageWriter
from monai.transforms import SaveImage


class _Atomic:
    """Write to a temporary name in the same folder, then rename."""

    def write(self, filename: str | Path, verbose: bool = False, **kwargs) -> None:
        """Write the image; ``filename`` appears only when it is whole."""
        path = Path(filename)
        # the suffix chooses the format, so it stays
        temporary = path.with_name(f".part-{path.name}")
        super().write(temporary, verbose=verbose, **kwargs)  # type: ignore[misc]
        temporary.replace(path)


def write_atomically(postprocessing: Any) -> None:
    """Let every ``SaveImage`` among transforms write whole files only, whichever writers it has.

    Configs name MONAI's own writers, so that programs that read nothing but their transforms, such as MONAI Deploy, do
    without this package; a run calls this before it starts.

    Args:
        postprocessing: a transform, or a composition of any depth, that the run's evaluator was made with.
    """
    for save in _savers(postprocessing):
        save.writers = tuple(_atomic(writer) for writer in save.writers)


def _savers(transform: Any) -> Iterator[SaveImage]:
    # SaveImaged keeps a SaveImage in .saver, Compose its parts in .transforms
    found = getattr(transform, "saver", transform)
    if isinstance(found, SaveImage):
        yield found
    for part in getattr(transform, "transforms", ()):
        yield from _savers(part)


def _atomic(writer: type[ImageWriter]) -> type[ImageWriter]:
    return writer if issubclass(writer, _Atomic) else type(f"Atomic{writer.__name__}", (_Atomic, writer), {})


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
