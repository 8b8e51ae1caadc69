"""A step of a corpus: a folder with an index, a sheet to look at, and a journal by which a stopped step goes on."""

import contextlib
import csv
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from networks.errors import UserError
from networks.workflow.evaluation import write_csv
from networks.workflow.files import atomic, file_hash, json_text, locked, parse_json, write_json
from networks.workflow.pictures import as_picture, highest_of_16_bit, is_dark, read_pixels
from networks.workflow.pixel_size import side_file
from scripts.corpus.index import IMAGE, TABLE, Micrograph, from_row, write_index

RECORD, JOURNAL, FAILED, IMAGES = "step.json", ".journal.jsonl", "failed.csv", "images"
WRITTEN = ".labels.sha256"  # of the index as the step wrote it, to tell whether somebody has edited it
Done = tuple[list[Micrograph], dict[str, Any]]


class Step:
    """The folder of a step while it is written.

    Attributes:
        folder: the step's.
        failed: reason by picture that could not be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failed: dict[str, str] = {}
        self._journal = folder / JOURNAL

    def run(
        self, micrographs: Sequence[Micrograph], work: Callable[[Micrograph], Done], title: str
    ) -> list[tuple[Micrograph, Done]]:
        """Do every picture that is not in the journal, and give all in the order of ``micrographs``.

        A picture is done again if its file, the file beside it that tells its pixel size, or its line in the index
        changed. Files of pictures that are no longer there are removed.

        Args:
            micrographs: what there is to do.
            work: does one picture and writes its files below the step's folder; what it gives must fit JSON. A
                ``UserError`` leaves the picture out, with its reason in ``failed.csv``.
            title: of the bar.

        Raises:
            UserError: what is there was made of other pictures altogether, and would all be removed.
        """
        known = self._read()
        before = {entry.get("image", "") for entry in known.values()}  # of earlier versions it is not known
        if "" not in before:
            self._check_same(before, {str(m.image.absolute()) for m in micrographs})
        keys = [_key(micrograph) for micrograph in micrographs]
        todo = [pair for pair in zip(micrographs, keys, strict=True) if pair[1] not in known]
        if len(todo) < len(micrographs):
            print(f"{len(micrographs) - len(todo)} of {len(micrographs)} pictures are done already.")
        with self._journal.open("a", encoding="utf-8") as journal:
            for micrograph, key in tqdm(todo, desc=title, unit="picture"):
                try:
                    results, about = work(micrograph)
                except UserError as error:
                    self.failed[str(micrograph.image)] = str(error)
                    continue
                rows = [result.row(self.folder) for result in results]
                known[key] = {"key": key, "image": str(micrograph.image.absolute()), "rows": rows, "about": about}
                journal.write(json.dumps(known[key]) + "\n")
                journal.flush()
        found = []
        for micrograph, key in zip(micrographs, keys, strict=True):
            if key in known:
                results = [from_row(row, self.folder, str(self._journal)) for row in known[key]["rows"]]
                found.append((micrograph, (results, known[key]["about"])))
        kept = {row["image"] for key in keys if key in known for row in known[key]["rows"]}
        for entry in known.values():
            for row in entry["rows"]:
                if row["image"] not in kept and row["image"].startswith(f"{IMAGES}/"):
                    (self.folder / row["image"]).unlink(missing_ok=True)
        return found

    def check_index(self, micrographs: Sequence[Micrograph]) -> None:
        """What :meth:`run` does by its journal, for a step that lists pictures and makes none.

        Raises:
            UserError: the index that is there lists other pictures altogether.
        """
        path = self.folder / TABLE
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                before = {str((self.folder / row[IMAGE]).resolve()) for row in csv.DictReader(file)}
            self._check_same(before, {str(m.image.resolve()) for m in micrographs})

    def _check_same(self, before: set[str], now: set[str]) -> None:
        if before and before.isdisjoint(now):
            raise UserError(
                f"{self.folder} holds what was made of other pictures, such as {min(before)}; give another folder, or "
                "remove it."
            )

    def finish(self, micrographs: Sequence[Micrograph]) -> None:
        """Write the index and say where it is.

        Raises:
            SystemExit: with code 1 if pictures could not be used.
        """
        if self.failed:
            write_csv(self.folder / FAILED, [{"image": i, "reason": reason} for i, reason in self.failed.items()])
        else:
            (self.folder / FAILED).unlink(missing_ok=True)
        if not micrographs:
            raise UserError(f"No picture could be used; {self.folder / FAILED} says why.")
        (self.folder / WRITTEN).unlink(missing_ok=True)
        path = write_index(self.folder, micrographs)
        with atomic(self.folder / WRITTEN) as temporary:
            temporary.write_text(file_hash(path), encoding="utf-8")
        print(f"Wrote {path} with {len(micrographs)} pictures.")
        if self.failed:
            print(f"{len(self.failed)} pictures could not be used; {self.folder / FAILED} says why.")
            raise SystemExit(1)

    def _read(self) -> dict[str, dict[str, Any]]:
        """What the journal says, by key; a line that a crash has cut, or whose files are gone, does not count."""
        known: dict[str, dict[str, Any]] = {}
        makers: dict[str, str] = {}  # key of the known entry that made a file
        if not self._journal.is_file():
            return known
        text = self._journal.read_text(encoding="utf-8")
        for line in text.splitlines():
            with contextlib.suppress(json.JSONDecodeError, KeyError):
                entry = json.loads(line)
                files = {row["image"] for row in entry["rows"]}
                is_whole = all((self.folder / name).is_file() for name in files)
                # what a later line wrote over is no longer what an earlier one made
                stale = {makers[name] for name in files & makers.keys()} | ({entry["key"]} if is_whole else set())
                for key in stale & known.keys():
                    for row in known.pop(key)["rows"]:
                        makers.pop(row["image"], None)
                if is_whole:
                    known[entry["key"]] = entry
                    makers.update(dict.fromkeys(files, entry["key"]))
        with atomic(self._journal) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in known.values()), encoding="utf-8")
        return known


@contextlib.contextmanager
def step(output_dir: str, name: str, settings: Mapping[str, Any]) -> Iterator[Step]:
    """Open a step's folder for this process alone.

    Args:
        output_dir: folder to create, or that of the same step with the same settings.
        name: of the command.
        settings: what its results depend on, beside its pictures; must fit JSON.

    Raises:
        UserError: the folder holds something else, its index was edited by hand, or another process writes to it.
    """
    folder = Path(str(output_dir))
    record = folder / RECORD
    given = {"step": name, "settings": dict(settings)}
    if record.is_file():
        earlier = parse_json(record.read_text(encoding="utf-8"), record)
        if json_text(earlier) != json_text(given):
            raise UserError(
                f"{folder} was made by {_told(earlier)}, not by {_told(given)}; give another folder or remove it."
            )
    elif folder.exists() and (not folder.is_dir() or any(not p.name.startswith(".") for p in folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; give another one.")
    with locked(folder, "corpus"):
        table, written = folder / TABLE, folder / WRITTEN
        if table.is_file() and written.is_file() and file_hash(table) != written.read_text(encoding="utf-8"):
            raise UserError(
                f"{table} was edited since {name} wrote it, and would be written anew; move it elsewhere and take from "
                "it what you want to keep, or give another folder."
            )
        write_json(record, given)
        yield Step(folder)


def _told(record: Mapping[str, Any]) -> str:
    return " ".join([str(record.get("step")), *(f"--{k} {v}" for k, v in dict(record.get("settings", {})).items())])


def names_of(micrographs: Sequence[Micrograph]) -> dict[Path, str]:
    """Name, without suffix, of what a step writes for each picture: ``images/class/name``.

    It depends on the picture alone, but where two of a class have the same name.
    """
    plain = {
        m.image: f"{IMAGES}/{safe(m.kind)}/{safe(m.image.stem)}" if m.kind else f"{IMAGES}/{safe(m.image.stem)}"
        for m in micrographs
    }
    counts = Counter(name.lower() for name in plain.values())  # since some file systems ignore the case
    sources = {m.image: f"{m.source} {m.image.name}" for m in micrographs}
    return {
        image: name if counts[name.lower()] == 1 else f"{name}_{zlib.crc32(sources[image].encode()):08x}"
        for image, name in plain.items()
    }


def safe(name: str) -> str:
    """A name for a file or folder that every system takes, and that no config takes for a reference."""
    return re.sub(r"^[.%@$~-]", "_", re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", name)).rstrip(". ") or "_"


def read_cleaned(image: Path, channels: int | None = None) -> np.ndarray:
    """:func:`networks.workflow.pictures.read_picture` for the steps that follow ``clean``, which takes a window.

    Raises:
        UserError: as there, or the picture would come out nearly black.
    """
    pixels = read_pixels(image)
    highest = highest_of_16_bit(pixels)
    if is_dark(highest):
        raise UserError(
            f"{image} has 16 bit and no value above {highest}, so that it would come out dark; run "
            f"'python -m scripts.corpus clean' with --window 0,{highest}, or what fits all pictures, first."
        )
    return as_picture(pixels, channels)


def derived(micrograph: Micrograph, image: Path, **changes: Any) -> Micrograph:
    """A picture that was made of another one, and keeps what is known of it."""
    return replace(micrograph, image=image, **changes)


def _key(micrograph: Micrograph) -> str:
    files = [file for file in (micrograph.image, side_file(micrograph.image)) if file is not None]
    states = " ".join(f"{file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
    row = json.dumps(micrograph.row(micrograph.image.parent), sort_keys=True)
    return f"{micrograph.image.absolute()} {states} {zlib.crc32(row.encode()):08x}"
