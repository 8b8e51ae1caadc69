"""Files that are whole or not there, those below a folder, and folders that one run at a time writes to."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from networks.errors import UserError


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Write a file so that ``path`` always holds a whole one: the earlier, or the new.

    Inside, write to the path that is given: a hidden name with the same suffix in the same folder, which is created
    if need be. It is renamed afterwards, and removed after any error.

    Raises:
        UserError: the file cannot be written: a full disk, a quota, a missing permission.
    """
    path = Path(path)
    temporary = path.with_name(f".part-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except Exception as error:
        reason = _writing_error(error, temporary)
        if reason is None:
            raise
        raise not_written(path, reason) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def not_written(path: str | Path, error: OSError) -> UserError:
    """The sentence about a file that cannot be written."""
    return UserError(
        f"{path} cannot be written ({error.strerror or error}); make room or allow writing there, or choose another "
        "folder."
    )


def put_in_place(source: str | Path, target: str | Path) -> None:
    """Copy a finished file to where it belongs, replacing what is there; ``target`` is always a whole file.

    Raises:
        UserError: as :func:`atomic`.
    """
    with atomic(target) as temporary:
        shutil.copyfile(source, temporary)


def parse_json(text: str, path: str | Path) -> Any:
    """JSON in which no object has a key twice.

    Raises:
        UserError: a key is there twice, which JSON allows and of which only the last would count.
        json.JSONDecodeError: as ``json.loads``.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise UserError(f"{path} has the key {twice!r} twice in one object; take one of them out.")
        return content

    return json.loads(text, object_pairs_hook=unique)


def json_text(content: Any) -> str:
    """JSON as all files of this project have it: indented by 4, in UTF-8, without NaN."""
    return json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON, whole or not at all.

    Raises:
        UserError: as :func:`atomic`.
    """
    with atomic(path) as temporary:
        temporary.write_text(json_text(content), encoding="utf-8")


def lexical(path: str | Path) -> Path:
    """Absolute, without "..", with links as they are."""
    return Path(os.path.normpath(Path(path).absolute()))


def lies_in(file: str | Path, folder: str | Path) -> bool:
    """Whether a file is somewhere below a folder, be it by a link on the way there or as what a link leads to."""
    return lexical(folder) in lexical(file).parents or Path(folder).resolve() in Path(file).resolve().parents


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()


def files_below(folder: str | Path, without: str | Path | None = None) -> list[Path]:
    """The files below a folder, in order. Links to folders are followed; what is hidden is left out, folders too.

    A link that leads nowhere is among them, so that whoever reads the files names it.

    Args:
        folder: where to look.
        without: a folder of results, which is left out if it lies inside, by whatever way.
    """
    root, results = Path(folder).resolve(), None if without is None else Path(without).resolve()
    if results is not None and root.is_relative_to(results):
        results = None  # a folder of results that holds the input is no part of it
    # real paths of a folder and of those that it was reached through: a link to what holds one of them is a circle, but
    # two links to one folder are two folders, as of two splits
    ways = {Path(folder): [root]}
    found = []
    for name, folders, files in os.walk(folder, followlinks=True):
        here = Path(name)
        way = ways.pop(here)
        paths = [here / file for file in files if not is_hidden(file)]
        found += [path for path in paths if path.is_file() or path.is_symlink()]
        inside = []
        for child in folders:
            real = (here / child).resolve()
            is_result = results is not None and real.is_relative_to(results)
            if not (is_result or is_hidden(child) or any(above.is_relative_to(real) for above in way)):
                ways[here / child] = [*way, real]
                inside.append(child)
        folders[:] = inside
    return sorted(found)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no one's data: hidden, or added by macOS's archiver."""
    return name.startswith(".") or name == "__MACOSX"


@contextlib.contextmanager
def locked(folder: str | Path, work: str = "run", remedy: str = "give another folder") -> Iterator[None]:
    """Keep others that do the same work out of a folder, which is created if need be.

    The operating system's lock on a hidden file, so that it ends with the process, however that ends; the file itself
    stays and means nothing.

    Args:
        folder: what is written to.
        work: what is done, such as "training": different works do not exclude each other.
        remedy: what a person may do beside waiting, as a part of a sentence.

    Raises:
        UserError: another process does this work there, or the folder cannot be written to.
    """
    folder = Path(folder)
    lock = FileLock(folder / f".{work}.lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(f"Another {work} is writing to {folder}; wait for its end, or {remedy}.") from None
    except OSError as error:
        raise not_written(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def _writing_error(error: BaseException | None, temporary: Path) -> OSError | None:
    """The operating system's reason in a chain of errors, if it is about the file that was to be written."""
    while error is not None:
        if isinstance(error, OSError) and _is_about(error, temporary):
            return error
        error = error.__cause__ or error.__context__
    return None


def _is_about(error: OSError, temporary: Path) -> bool:
    # a file that could not be read has another name; writing to an open file that fails has none
    names = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return not names or any(name == temporary or name in temporary.parents for name in names)
