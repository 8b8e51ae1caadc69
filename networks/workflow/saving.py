"""Writers for MONAI's ``SaveImage`` whose files are whole or not there."""

from pathlib import Path

from monai.data import NibabelWriter, PILWriter

from networks.workflow.files import atomic


class _Atomic:
    """Write to a temporary name in the same folder, then rename."""

    def write(self, filename: str | Path, verbose: bool = False, **kwargs) -> None:
        """Write the image; ``filename`` appears only when it is whole."""
        with atomic(filename) as temporary:
            super().write(temporary, verbose=verbose, **kwargs)  # type: ignore[misc]


class AtomicNibabelWriter(_Atomic, NibabelWriter):
    """NIfTI."""


class AtomicPILWriter(_Atomic, PILWriter):
    """PNG and other pictures."""
