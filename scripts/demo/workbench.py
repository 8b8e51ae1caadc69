"""What the page does, without the page: taking over uploads, segmenting and measuring them, forgetting them again."""

import re
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.utils import set_determinism

from networks.errors import UserError
from networks.workflow.data import PICTURE_SUFFIXES
from networks.workflow.files import parse_json
from networks.workflow.protocols import told_options
from networks.workflow.saving import LABEL_NAMES, write_label_names
from scripts.datasets.dicom_seg import require_highdicom
from scripts.demo.uploads import check_image, receive
from scripts.demo.views import View
from scripts.measure.cases import Item
from scripts.measure.maps import Measured, Options, measure_items
from scripts.measure.measuring import FOLDER
from scripts.measure.tables import write_tables
from scripts.predict.cases import Case, find_cases
from scripts.predict.models import Model
from scripts.predict.segmenter import Segmenter, as_nifti
from scripts.zoo.weights import licences

MAX_SESSIONS = 8  # whose files are kept: programs, unlike browsers, do not say when they leave


class Choice:
    """A model that the page offers.

    Attributes:
        about: what it was trained on and how good it is, as Markdown.

    Args:
        model: opened when it is first used.
        labels: file with the class names; by default those of the training.
    """

    def __init__(self, model: Model, labels: str | None = None) -> None:
        self.model = model
        self.names = model.labels(labels)
        self.is_volumes = model.config["spatial_dims"] == 3
        self.about = _about(model)
        self._segmenter: Segmenter | None = None

    @property
    def segmenter(self) -> Segmenter:
        if self._segmenter is None:
            self._segmenter = Segmenter(self.model.config, self.names, self.model.network(), keep_probabilities=True)
        return self._segmenter


@dataclass
class Result:
    """A segmented case.

    Attributes:
        case: with the file of its label map.
        choice: the model.
        view: what there is to look at.
        files: to download.
        note: what the person has to know about it, or nothing.
    """

    case: Case
    choice: Choice
    view: View
    files: list[Path]
    note: str


@dataclass
class Session:
    """A browser's page: where its files are, what is to be segmented, and what came of it."""

    folder: Path
    source: Path | None = None
    result: Result | None = None
    lock: Any = field(default_factory=threading.Lock)


class Workbench:
    """All sessions of the page, and the models for them.

    Args:
        choices: models by the names that the page has for them.
        root: folder for everything that is written.
        limit: bytes that an upload, or an image in memory, may have.
    """

    def __init__(self, choices: Mapping[str, Choice], root: Path, limit: int) -> None:
        self.choices, self.root, self.limit = dict(choices), root, limit
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock, self._working = threading.Lock(), threading.Lock()
        set_determinism(0)  # as scripts.predict does

    def receive(self, key: str, files: Sequence[str]) -> None:
        """Take over what a session uploads; what it had before is removed.

        Raises:
            UserError: as :func:`scripts.demo.uploads.receive`.
        """
        self.close(key)
        session = Session(Path(tempfile.mkdtemp(prefix="session-", dir=self.root)))
        with self._lock:
            self._sessions[key] = session
            oldest = [next(iter(self._sessions))] if len(self._sessions) > MAX_SESSIONS else []
        for other in oldest:
            self.close(other)
        upload = session.folder / "upload"
        upload.mkdir()
        try:
            session.source = receive(files, upload, self.limit)
        except BaseException:
            self.close(key)
            raise

    def fitting(self, key: str, name: str) -> str:
        """The model that was chosen, or, if it is not for such images as a session has uploaded, the first that is."""
        source = self.session(key).source
        assert source is not None
        files = [source] if source.is_file() else sorted(source.rglob("*"))
        is_volumes = not any(file.name.lower().endswith(PICTURE_SUFFIXES) for file in files)
        others = [other for other, choice in self.choices.items() if choice.is_volumes == is_volumes]
        return name if self.choices[name].is_volumes == is_volumes or not others else others[0]

    def segment(self, key: str, name: str) -> Result:
        """Segment what a session has uploaded.

        Args:
            key: of the session.
            name: of the model.

        Raises:
            Exception: whatever is wrong with the upload.
        """
        session, choice = self.session(key), self.choices[name]
        session.result = None
        choice.model.check_weights()
        folder = Path(tempfile.mkdtemp(prefix="result-", dir=session.folder))
        case = self._case(session, choice, folder)
        check_image(case, self.limit)
        with self._working:
            segment = choice.segmenter
            segment(case)
            probabilities = segment.probabilities
            segment.probabilities = None
        label = Path(case.label)
        image = as_nifti(case, folder) if case.is_series else Path(case.files[0])
        view = View(segment.displayed(image, label), probabilities, choice.names)
        write_label_names(label.parent, choice.names)
        files, note = [label, label.parent / LABEL_NAMES], ""
        if case.is_series:
            seg, note = _dicom_seg(segment, case, label, folder)
            files += seg
        session.result = Result(case, choice, view, files, note)
        return session.result

    def measure(self, key: str, pixel_size: str = "", split_touching: bool = False) -> tuple[Measured, list[Path], str]:
        """Measure what a session has segmented, as ``scripts.measure`` does.

        Returns:
            The numbers, the tables' files, and what the person should read about them.

        Raises:
            UserError: nothing is segmented, or the pixel size is none.
        """
        session, result = self.session(key), self.result(key)
        size = None if result.view.is_volume else pixel_size.strip() or None  # volumes have theirs in the file
        how = Options(pixel_size=size, split_touching=split_touching)
        label = Path(result.case.label)
        # the image tells a pixel's size before the label map does, which may have it rounded or not at all
        item = Item(result.case.name, label, image=Path(result.case.files[0]))
        with session.lock:
            (measured,), _, notes = measure_items([item], result.choice.names, how)
            folder = label.parent / FOLDER
            write_tables(folder, [measured], [], [], [])
        return measured, sorted(folder.glob("*.csv")), " ".join(notes).replace("--pixel_size", "the pixel size")

    def session(self, key: str) -> Session:
        """A session; raises UserError where there is none."""
        with self._lock:
            if key not in self._sessions:
                raise UserError("There is no upload, or its files were removed since; drop the image again.")
            self._sessions.move_to_end(key)
            return self._sessions[key]

    def result(self, key: str) -> Result:
        """What was segmented last; raises UserError where nothing was."""
        result = self.session(key).result
        if result is None:
            raise UserError("Nothing is segmented yet; drop an image and segment it first.")
        return result

    def without_folders(self, sentence: str) -> str:
        """A sentence in which uploaded files have the names that the person knows."""
        return re.sub(re.escape(f"{self.root}/") + r"session-[^/]+/upload/?", "", sentence)

    def close(self, key: str) -> None:
        """Remove all files of a session, if there is one."""
        with self._lock:
            session = self._sessions.pop(key, None)
        if session is not None:
            shutil.rmtree(session.folder, ignore_errors=True)

    def _case(self, session: Session, choice: Choice, folder: Path) -> Case:
        assert session.source is not None
        out = folder / "out"
        cases = find_cases(session.source, out, None, choice.is_volumes, overlays=False)
        if any(case.is_series for case in cases):
            cases = find_cases(session.source, out, "nifti", choice.is_volumes, overlays=False)
        if len(cases) != 1:
            names = ", ".join(case.name for case in cases[:5]) + (", ..." if len(cases) > 5 else "")
            raise UserError(
                f"The upload holds {len(cases)} images ({names}), but this page takes one at a time; give the folder "
                "to python -m scripts.predict."
            )
        return cases[0]


def _dicom_seg(segment: Segmenter, case: Case, label: Path, folder: Path) -> tuple[list[Path], str]:
    """The label map of a series as DICOM SEG, where it can be had, and what there is to say about it."""
    try:
        require_highdicom()
        made = segment.dicom_seg(case, label, folder)
    except UserError as error:
        return [], f"No DICOM SEG was made: {error}"
    if made is None:
        return [], "Nothing but background was found, so there is no DICOM SEG."
    target = label.with_name(f"{label.name.split('.')[0]}.dcm")
    return [made.rename(target)], segment.notice


def _about(model: Model) -> str:
    """The record beside the weights in a few words."""
    path = model.weights.with_suffix(".json")
    text = f"{model.config.name}, `{model.weights.name}`"
    if not path.is_file():
        return f"{text}."
    record = parse_json(path.read_text(encoding="utf-8"), path)
    data = record.get("data_set") or {}
    if data.get("name"):
        text += f", trained on {data['training']} images of {data['name']}"
    strict = [e for e in record.get("evaluations", []) if e["protocol"] == "strict" and not told_options(e)]
    scores = [e for e in strict if "dice" in e["scores"]]
    if scores:
        dice, cases = scores[0]["scores"]["dice"], scores[0]["cases"]
        text += f". Mean Dice {dice:.3f} on {cases} {scores[0]['split']} images of {scores[0]['data_set']}"
    found = licences(record) if data else []
    if len(found) == 1:
        return f"{text}. Licence of the data: {found[0][1]}."
    named = ", ".join(f"{licence} ({name})" for name, licence in found)
    return f"{text}. Licences of the data: {named}." if named else f"{text}."
