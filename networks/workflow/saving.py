"""Letting the writers of MONAI's ``SaveImage`` write files that are whole or not there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monai.data import ImageWriter
from monai.transforms import SaveImage

from networks.workflow.files import atomic


class _Atomic:
    """Write to a temporary name in the same folder, then rename."""

    def write(self, filename: str | Path, verbose: bool = False, **kwargs) -> None:
        """Write the image; ``filename`` appears only when it is whole."""
        with atomic(filename) as temporary:
            super().write(temporary, verbose=verbose, **kwargs)  # type: ignore[misc]


def write_atomically(postprocessing: Any) -> None:
    """Let every ``SaveImage`` among transforms write whole files only, whichever writers it has.

    Configs name MONAI's own writers, so that programs that read nothing but their transforms, such as MONAI Deploy, do
    without this package; a run calls this before it starts.

    Args:
        postprocessing: a transform, or a composition of any depth, that the run's evaluator was made with.
    """
    for save in _savers(postprocessing):
        # classes, though MONAI's types think that a name may be left among them
        save.writers = tuple(_atomic(writer) for writer in save.writers)  # type: ignore[arg-type]


def _savers(transform: Any) -> Iterator[SaveImage]:
    # SaveImaged keeps a SaveImage in .saver, Compose its parts in .transforms
    found = getattr(transform, "saver", transform)
    if isinstance(found, SaveImage):
        yield found
    for part in getattr(transform, "transforms", ()):
        yield from _savers(part)


def _atomic(writer: type[ImageWriter]) -> type[ImageWriter]:
    return writer if issubclass(writer, _Atomic) else type(f"Atomic{writer.__name__}", (_Atomic, writer), {})
