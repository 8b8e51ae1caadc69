"""Opening what is to be verified: a folder, a zip file, or the address of one."""

import contextlib
import json
import re
import stat
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin

from networks.errors import UserError
from scripts.zoo.pack import MODEL_INFO, sha1

URL = re.compile(r"https?://", re.IGNORECASE)
NAME = re.compile(r"(?P<name>\w+)_v(?P<version>[\w.]+)\.zip")


class UnsafeError(UserError):
    """An archive that must not be unpacked, or whose content is not what was published."""


@contextlib.contextmanager
def opened(source: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the bundle's folder and what the archive's checks found, a sentence by check.

    Zip files are unpacked into a temporary folder, after their members' names were checked.

    Raises:
        UserError: no such file or folder, or the address does not answer.
        UnsafeError: see there.
    """
    with tempfile.TemporaryDirectory(prefix="zoo-") as temporary:
        path = _fetched(source, Path(temporary)) if URL.match(source) else Path(source)
        if path.is_dir():
            links = [file for file in path.rglob("*") if file.is_symlink()]
            if links:
                raise UnsafeError(f"{links[0]} is a link; a bundle consists of files.")
            yield path.resolve(), {"archive": "a folder"}
            return
        if not path.is_file():
            raise UserError(f"{path} does not exist; give a bundle's folder, a zip file or its address.")
        found = {"model_info.json": _check_model_info(source, path)}
        folder = _unpack(path, Path(temporary) / "unpacked")
        yield folder.resolve(), {"archive": "safe names, no links, one folder", **found}


def _fetched(url: str, folder: Path) -> Path:
    path = folder / PurePosixPath(url.split("?")[0]).name
    try:
        urllib.request.urlretrieve(url, path)
    except OSError as error:
        raise UserError(f"{url} cannot be fetched ({error}); check the address and the server.") from error
    return path


def _unpack(path: Path, target: Path) -> Path:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members)
            archive.extractall(target)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise UnsafeError(f"{path.name} is damaged ({error}); fetch or pack it again.") from error
    (folder,) = target.iterdir()
    match = NAME.fullmatch(path.name)
    if match and match["name"] != folder.name:
        raise UnsafeError(f"{path.name} holds the folder {folder.name}; expected {match['name']}.")
    return folder


def check_places(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Raise UnsafeError where a member would be written outside of the folder, or is no file."""
    for member in members:
        name = member.orig_filename
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or name.startswith("/") or re.search(r"[\\\0]|^[A-Za-z]:", name):
            raise UnsafeError(f"{path.name} has a member {name!r}, which would be written outside of its folder.")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UnsafeError(f"{path.name} has a member {name!r} that is a link or a device; expected files.")


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    check_places(path, members)
    names = [member.orig_filename for member in members]
    if members and min(member.header_offset for member in members) != 0:
        # a cut zip file may end in another one: a checkpoint is one, too
        raise UnsafeError(f"{path.name} is damaged (it does not begin with its first file); fetch or pack it again.")
    compiled = next((name for name in names if "__pycache__" in name or name.endswith(".pyc")), None)
    if compiled is not None:
        raise UnsafeError(f"{path.name} has compiled Python, {compiled!r}, which may differ from the code beside it.")
    if len(set(names)) != len(names):
        raise UnsafeError(f"{path.name} holds a file twice.")
    tops = {PurePosixPath(name).parts[0] for name in names}
    if len(tops) != 1 or all("/" not in name for name in names):
        raise UnsafeError(
            f"{path.name} must hold one folder, the bundle's; it has {', '.join(sorted(tops)) or 'none'}."
        )


def _check_model_info(source: str, path: Path) -> str:
    """The SHA-1 in the ``model_info.json`` beside the zip, where there is one."""
    if URL.match(source):
        try:
            with urllib.request.urlopen(urljoin(source, MODEL_INFO), timeout=30) as response:
                text = response.read()
        except OSError:
            return "none beside the zip"
    elif (path.parent / MODEL_INFO).is_file():
        text = (path.parent / MODEL_INFO).read_bytes()
    else:
        return "none beside the zip"
    try:
        entry = json.loads(text).get(path.name.removesuffix(".zip"))
    except (ValueError, AttributeError) as error:
        raise UnsafeError(f"The {MODEL_INFO} beside {path.name} is not valid JSON ({error}).") from error
    if entry is None:
        return "does not list it"
    if entry.get("checksum") != sha1(path):
        raise UnsafeError(f"{path.name} is not the file that {MODEL_INFO} lists (its SHA-1 differs); fetch it again.")
    return "SHA-1 right"
