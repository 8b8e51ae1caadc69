"""Writers for MONAI's ``SaveImage`` that never leave a half-written file."""

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
