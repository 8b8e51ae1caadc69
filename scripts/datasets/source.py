"""Where the originals are: a folder, or a zip or tar of it that is read one file at a time without unpacking it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from networks.errors import UserError
from networks.workflow.files import files_below, is_hidden
from scripts.datasets.writer import CaseError, reading


class Source:
    """The files of a folder or archive under one kind of path, ``root / name``.

    Names of archive members are only keys: a copy is written under its last part into a fresh temporary folder, so a
    member called ``../../x`` can go nowhere.

    Attributes:
        root: the folder or archive file.
    """

    def __init__(self, root: Path, archive: zipfile.ZipFile | tarfile.TarFile | None = None) -> None:
        self.root = root
        self._archive = archive
        self._members = dict(_members(archive)) if archive is not None else {}

    def files(self) -> list[Path]:
        """Every file, sorted by path; hidden ones and those that macOS's archiver adds are left out."""
        if self._archive is None:
            return files_below(self.root)
        paths = [Path(name) for name in self._members]
        return [self.root / path for path in sorted(paths) if not any(map(is_hidden, path.parts))]

    @contextlib.contextmanager
    def opened(self, *paths: Path) -> Iterator[tuple[Path, ...]]:
        """The files ``paths`` on disk: themselves, or copies of the archive's members that go with the block.

        Raises:
            CaseError: a file is missing or the archive is damaged there.
        """
        with contextlib.ExitStack() as stack:
            yield tuple(stack.enter_context(self._opened(path)) for path in paths)

    @contextlib.contextmanager
    def _opened(self, path: Path) -> Iterator[Path]:
        if self._archive is None:
            if not path.is_file():
                raise CaseError(f"{path.name} does not exist.")
            yield path
            return
        name = path.relative_to(self.root).as_posix()
        if name not in self._members:
            raise CaseError(f"{name} is not in {self.root.name}.")
        with tempfile.TemporaryDirectory(prefix="datasets-") as folder:
            copy = Path(folder) / path.name
            with reading(path), self._member(name) as member, copy.open("wb") as file:
                shutil.copyfileobj(member, file)
            yield copy

    def _member(self, name: str) -> IO[bytes]:
        if isinstance(self._archive, zipfile.ZipFile):
            return self._archive.open(self._members[name])
        return self._archive.extractfile(self._members[name])


@contextlib.contextmanager
def open_source(source: str | os.PathLike) -> Iterator[Source]:
    """Open a folder, a zip or an uncompressed tar.

    Raises:
        UserError: there is nothing of that name.
        UserError: a file that is neither zip nor tar, or a compressed tar, which cannot be read at any place.
    """
    path = Path(str(source))
    if path.is_dir():
        yield Source(path)
    elif not path.is_file():
        raise UserError(f"The folder or archive {path} does not exist; give --source the originals.")
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield Source(path, archive)
    else:
        try:
            archive = tarfile.open(path, "r:")  # noqa: SIM115
        except tarfile.TarError as error:
            raise UserError(
                f"{path} is neither a folder nor a zip nor an uncompressed tar; unpack it and give --source the folder."
            ) from error
        with archive:
            yield Source(path, archive)


def _members(
    archive: zipfile.ZipFile | tarfile.TarFile,
) -> Iterator[tuple[str, zipfile.ZipInfo | tarfile.TarInfo]]:
    if isinstance(archive, zipfile.ZipFile):
        members = [(info.filename, info) for info in archive.infolist() if not info.is_dir()]
    else:
        members = [(info.name, info) for info in archive.getmembers() if info.isfile()]
    for name, info in members:
        path = PurePosixPath(name)
        if not path.is_absolute() and ".." not in path.parts:
            yield path.as_posix(), info
