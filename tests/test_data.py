"""``dataset.json`` and its lists: what is read, what is carved, what is refused; and that every file is read once."""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser
from monai.transforms import LoadImage
from PIL import Image

from networks.errors import UserError
from networks.workflow import case_list, check_dataset, check_lists, class_names, describe_cases, load_datalist
from networks.workflow.data import LISTS, parse_labels, patient
from networks.workflow.files import files_below
from scripts.catalog.bundles import BY_NAME
from tests.converters import NASA, REAL, run
from tests.test_bad_input import sentence_of
from tests.workflows import config_paths, training_overrides
from tests.workflows import run as run_config

ATTENTION_UNET, CS_UNET = BY_NAME["attention_unet"], BY_NAME["cs_unet"]


def make(folder: Path, labels: object = None, **lists: list[str]) -> str:
    """A data set of tiny pictures, all different, by the names of their files."""
    content: dict = {"labels": {"0": "background", "1": "cell"} if labels is None else labels}
    folder.mkdir(parents=True, exist_ok=True)
    for name, stems in lists.items():
        content[name] = []
        for stem in stems:
            item = {"image": f"{stem}.png", "label": f"{stem}_label.png"}
            if not (folder / item["image"]).exists():
                (folder / item["image"]).parent.mkdir(parents=True, exist_ok=True)
                number = len(list(folder.rglob("*.png")))
                Image.fromarray(np.full((8, 6), number, np.uint8)).save(folder / item["image"])
                Image.fromarray(np.eye(8, 6, dtype=np.uint8)).save(folder / item["label"])
            content[name].append(item)
    (folder / "dataset.json").write_text(json.dumps(content))
    return str(folder)


def edit(folder: str, change: Callable[[dict], None]) -> None:
    path = Path(folder) / "dataset.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"0": "background", "1": "liver"}, ["background", "liver"]),
        ({"background": 0, "liver": 1, "spleen": 2}, ["background", "liver", "spleen"]),
        ({"liver": 1}, ["background", "liver"]),
        ({"1": "liver"}, ["background", "liver"]),
        ({"10": "j", **{str(i): chr(96 + i) for i in range(1, 10)}}, ["background", *"abcdefghij"]),
    ],
)
def test_both_forms_of_class_names(labels: dict, names: list[str], tmp_path: Path) -> None:
    folder = make(tmp_path, labels, training=["a", "b"])
    assert class_names(folder) == class_names(folder, len(names)) == names
    described = describe_cases(folder, training=load_datalist(folder)["training"])
    assert described["labels"] == {str(number): name for number, name in enumerate(names)}
    for wrong in (len(names) - 1, len(names) + 1):
        with pytest.raises(UserError, match=rf"names {len(names)} classes .* but out_channels is {wrong}"):
            class_names(folder, wrong)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"00": "background", "01": "liver"}, "must be"),
        ({"0": "background", "2": "liver"}, "without a gap"),
        ({"background": 0, "liver": 2}, "without a gap"),
        ({"background": 0, "liver": 1, "spleen": 1}, "twice"),
        ({"0": "background", "1": "liver", "2": "liver"}, "twice"),
        ({"background": 0, "organs": [1, 2], "liver": 2}, "regions of several classes"),
        ({"background": 0, "liver": 1, "ignore": 2}, "pixels to leave out"),
        ({"0": "background", "1": ""}, "has the name"),
        ({"0": "background", "liver": 1}, "must be"),
        ({"background": 0, "liver": "1"}, "must be"),
        (["background", "liver"], "must be"),
    ],
)
def test_other_class_names_are_refused(labels: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_labels(labels, "dataset.json")


def test_dataset_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    folder = make(tmp_path, training=["a"], validation=["b"])
    path = tmp_path / "dataset.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load_datalist(folder)["training"]) == 1
    assert check_dataset(folder)["validation"] == 1


@pytest.mark.parametrize("text", ['{"training": [], "training": []}', '{"labels": {"1": "a", "1": "b"}, "test": []}'])
def test_keys_given_twice_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json has the key .* twice"):
        load_datalist(str(tmp_path))


@pytest.mark.parametrize("item", [3, None, {"label": "a_label.png"}, {"image": 3, "label": "x"}, "a.png", ["a.png"]])
def test_one_bad_item_is_named(item: object, tmp_path: Path) -> None:
    folder = make(tmp_path, training=["a"], validation=["b"], elsewhere=["c"])
    for name in ("training", "validation", "elsewhere"):
        edit(folder, lambda content, name=name: content[name].append(item))
        with pytest.raises(UserError, match=f'of "{name}" is malformed'):
            load_datalist(folder)
        edit(folder, lambda content, name=name: content[name].pop())
    edit(folder, lambda content: content.update(authors=["A", "B"]))
    assert load_datalist(folder).keys() == {*LISTS, "elsewhere"}


def test_paths_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    """Results are written under an image's path in its data set; links in the folder may lead anywhere."""
    folder = make(tmp_path / "set", training=["a"], validation=["b"])
    shutil.copy(tmp_path / "set" / "a.png", tmp_path / "c.png")
    for path in ("../c.png", str(tmp_path / "c.png")):
        edit(folder, lambda content, path=path: content["training"][0].update(image=path))
        with pytest.raises(UserError, match="outside of its folder"):
            load_datalist(folder)
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "c.png")
    for path in ("x/../link.png", str(tmp_path / "set" / "link.png")):
        edit(folder, lambda content, path=path: content["training"][0].update(image=path))
        assert load_datalist(folder)["training"][0]["image"] == str(tmp_path / "set" / "link.png")


def test_files_below_follow_links_but_no_circles(tmp_path: Path) -> None:
    for name in ("root/b.png", "root/.hidden/c.png", "root/__MACOSX/d.png", "other/e.png", "other/out/f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    root = tmp_path / "root"
    for name in ("train", "val"):
        (root / name).symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(root)
    (root / "up").symlink_to(tmp_path)
    (root / "a.png").symlink_to(tmp_path / "nowhere.png")
    found = files_below(root, without=tmp_path / "other" / "out")
    assert [path.relative_to(root).as_posix() for path in found] == ["a.png", "b.png", "train/e.png", "val/e.png"]
    assert root / "val" / "out" / "f.png" in files_below(root)


@pytest.mark.parametrize(
    ("path", "who"),
    [
        ("imagesTr/patient001_frame01.nii.gz", "patient001"),
        ("sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz", "sub-01"),
        ("case0005_slice012.png", "case0005"),
        ("case_001_volume_ES.nii.gz", "case_001"),
        ("Patient_7.nii", "patient_7"),
        ("subject12/t1.nii", "subject12"),
        ("case_001.nii.gz", None),
        ("hippocampus_001.nii.gz", None),
        ("phantom_003.nii.gz", None),
        ("subway-01.png", None),
        ("outpatient01.png", None),
        ("sub-NDARINV003RTV85/sub-NDARINV003RTV85_T1w.nii.gz", "sub-ndarinv003rtv85"),
        ("sub-grain/sub-micron_003.png", None),
        ("sub-surface_1.tif", None),
        ("00.png", None),
    ],
)
def test_patients_by_name(path: str, who: str | None, tmp_path: Path) -> None:
    assert patient(str(tmp_path / "patient99" / path), str(tmp_path / "patient99")) == who


OVERLAPS = {
    "a case in two lists": ({"training": ["a", "b"], "validation": ["b"]}, "in training and in validation"),
    "a case in training and test": ({"training": ["a"], "validation": ["c"], "test": ["a"]}, "in training and in test"),
    "a case twice in a list": ({"training": ["a", "b", "a"], "validation": ["c"]}, "twice in training"),
    "a patient in two lists": (
        {"training": ["patient1_frame1"], "validation": ["patient1_frame2"]},
        "The patient patient1 is in training",
    ),
}


@pytest.mark.parametrize("name", OVERLAPS)
def test_overlap_is_refused_unless_it_is_meant(name: str, tmp_path: Path, monkeypatch) -> None:
    lists, message = OVERLAPS[name]
    folder = make(tmp_path / "set", **lists)
    with pytest.raises(UserError, match=message):
        check_lists(folder)
    check_lists(folder, allow_overlap="true")
    assert message in run(monkeypatch, "check", folder)
    assert run(monkeypatch, "check", folder, "--allow_overlap", "true") == 0


def test_overlap_with_the_test_list_is_found_through_links(tmp_path: Path) -> None:
    """A training gives two of the three lists; the folder's images are links to wherever the scans are."""
    folder = Path(make(tmp_path / "set", training=["a", "b"], validation=["c"], test=["d"]))
    (tmp_path / "scans").mkdir()
    for name in "abcd":
        shutil.move(folder / f"{name}.png", tmp_path / "scans" / f"{name}.png")
        (folder / f"{name}.png").symlink_to(tmp_path / "scans" / f"{'a' if name == 'd' else name}.png")
    lists = load_datalist(str(folder))
    with pytest.raises(UserError, match="is listed with two labels"):
        check_lists(str(folder), training=lists["training"], validation=lists["validation"])


def test_same_content_and_two_labels(tmp_path: Path) -> None:
    folder = make(tmp_path, training=["a", "b"], validation=["c"])
    shutil.copy(tmp_path / "a.png", tmp_path / "c.png")
    with pytest.raises(UserError, match=r"a\.png and .*c\.png hold the same image"):
        check_lists(folder)
    # in one list, as patients 74 and 76 of ACDC are, it is only said
    edit(folder, lambda content: content["training"].append(content["validation"].pop()))
    edit(folder, lambda content: content["validation"].append(content["training"].pop(1)))
    said: list[str] = []
    check_lists(folder, say=said.append)
    assert len(said) == 1 and said[0].endswith("it counts twice in training.")
    folder = make(tmp_path / "two", training=["a", "b"], validation=["c"])
    edit(folder, lambda content: content["training"].append({"image": "a.png", "label": "b_label.png"}))
    with pytest.raises(UserError, match=r"a\.png is listed with two labels"):
        check_lists(folder)
    with pytest.raises(UserError, match="two labels"):
        check_dataset(folder)


def test_training_refuses_overlap_before_anything_is_read(ct_dir: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(ct_dir, tmp_path / "data"))
    edit(str(data), lambda content: content["validation"].append(content["training"][0]))
    options = training_overrides(ATTENTION_UNET, tmp_path / "out", data, epochs=1)
    train = config_paths(ATTENTION_UNET, "train")
    assert "in training and in validation" in sentence_of(train, **options)
    run_config(train, "train", "training", **options, allow_overlap=True)


def test_a_validation_list_is_carved(tmp_path: Path, monkeypatch, capsys, caplog) -> None:
    """A fifth, by patient, the same wherever the data set lies and whatever order its list has."""
    stems = [f"patient{i}_frame{j}" for i in range(10) for j in (1, 2)]
    folder = make(tmp_path / "set", training=stems)
    with caplog.at_level(logging.INFO):
        lists = load_datalist(folder)
    assert "4 of the 20 training cases are kept for validation" in caplog.text
    people = {name: {patient(case["image"], folder) for case in lists[name]} for name in ("training", "validation")}
    assert [len(lists[name]) for name in ("training", "validation")] == [16, 4]
    assert len(people["validation"]) == 2 and not people["validation"] & people["training"]
    moved = str(shutil.move(folder, tmp_path / "elsewhere"))
    edit(moved, lambda content: content.update(training=content["training"][::-1], validation=[]))
    names = [{Path(case["image"]).name for case in found["validation"]} for found in (lists, load_datalist(moved))]
    assert names[0] == names[1]
    check_lists(moved)
    assert run(monkeypatch, "check", moved) == 0
    text = capsys.readouterr().out
    assert text.count("kept for validation") == 1 and "16 training, 4 validation" in text


def test_one_patient_cannot_be_split(tmp_path: Path, monkeypatch) -> None:
    for stems in (["a"], ["patient1_frame1", "patient1_frame2"]):
        folder = make(tmp_path / stems[0], training=stems)
        with pytest.raises(UserError, match="none can be kept for validation"):
            case_list(load_datalist(folder), "validation")
        assert "none can be kept for validation" in run(monkeypatch, "check", folder)


def test_training_and_evaluation_see_the_same_carved_list(ct_dir: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(ct_dir, tmp_path / "data"))
    edit(str(data), lambda content: content.pop("validation"))
    options = training_overrides(ATTENTION_UNET, tmp_path / "out", data, epochs=1)
    train = config_paths(ATTENTION_UNET, "train")
    run_config(train, "train", "training", **options)
    workflow = run_config([*train, *config_paths(ATTENTION_UNET, "evaluate")], "train", **options, split="validation")
    parser = ConfigParser()
    parser.read_config(train)
    parser.update(options)
    kept = parser.get_parsed_content("validate::dataset::data")
    assert workflow.parser.get_parsed_content("validate::dataset::data") == kept and len(kept) == 1


@pytest.mark.parametrize("bundle", [ATTENTION_UNET, CS_UNET], ids=lambda bundle: bundle.name)
@pytest.mark.parametrize("cache_rate", [1.0, 0.0])
def test_a_training_reads_every_file_once(bundle, cache_rate, data_dirs, tmp_path: Path, monkeypatch) -> None:
    """Check, class weights and cache together; without a cache, validation reads its cases in every epoch again."""
    reads: Counter[str] = Counter()
    call = LoadImage.__call__

    def counted(self: LoadImage, filename: str, *args, **kwargs):
        reads[Path(filename).as_posix()] += 1
        return call(self, filename, *args, **kwargs)

    monkeypatch.setattr(LoadImage, "__call__", counted)
    data = data_dirs[bundle.default.kind]
    options = training_overrides(bundle, tmp_path, data, epochs=1, cache_rate=cache_rate)
    files = config_paths(bundle, "train", *(["presets/nasa_ebc"] if bundle is CS_UNET else []))
    if bundle is CS_UNET:  # weighs the classes
        options |= {"out_channels": 3, "class_names": ["a", "b", "c"]}
    run_config(files, "train", "training", **options)
    lists = load_datalist(str(data))
    training = {path for case in lists["training"] for path in case.values()}
    validation = {path for case in lists["validation"] for path in case.values()}
    assert reads.keys() == {*training, *validation}
    if cache_rate:
        assert set(reads.values()) == {1}
    elif bundle is ATTENTION_UNET:  # slices wait on the disk
        assert {reads[path] for path in training} == {1} and {reads[path] for path in validation} == {2}


@pytest.mark.parametrize("cache_rate", [1.0, 0.0])
@pytest.mark.parametrize("name", ["training", "validation"])
def test_what_is_not_cached_is_checked_before_the_first_batch(
    name: str, cache_rate: float, micrograph_dir: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(micrograph_dir, tmp_path / "data"))
    label = data / json.loads((data / "dataset.json").read_text())[name][-1]["label"]
    Image.fromarray(np.full_like(np.asarray(Image.open(label)), 7)).save(label)
    options = training_overrides(CS_UNET, tmp_path / "out", data, cache_rate=cache_rate)
    text = sentence_of(config_paths(CS_UNET, "train"), **options)
    assert label.name in text and "label values 7" in text
    assert not list((tmp_path / "out").rglob("*.pt"))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data are not here")
@pytest.mark.parametrize("name", ["acdc", "hippocampus", "isbi2012_em"])
def test_real_lists_are_accepted(name: str) -> None:
    folder = str(REAL / name)
    check_lists(folder)
    lists = load_datalist(folder)
    if name == "acdc":
        people = [{patient(case["image"], folder) for case in lists[key]} for key in LISTS]
        assert list(map(len, people)) == [70, 10, 20]
    assert len(class_names(folder)) == {"acdc": 4, "hippocampus": 3, "isbi2012_em": 2}[name]


@pytest.mark.skipif(not NASA.is_dir(), reason="the real micrographs are not here")
def test_real_micrographs_are_accepted(tmp_path: Path, monkeypatch) -> None:
    assert run(monkeypatch, "nasa", "--source", NASA, "--output_dir", tmp_path, "--sets", "Super2,Super3") == 0
    for name in ("Super2", "Super3"):
        check_lists(str(tmp_path / name))


def test_fewer_validation_cases_than_processes(ct_dir: Path, monkeypatch) -> None:
    monkeypatch.setattr("networks.workflow.overlap.idist.get_world_size", lambda: 4)
    lists = load_datalist(str(ct_dir))
    with pytest.raises(UserError, match="has 2, fewer than the 4 processes"):
        check_lists(str(ct_dir), training=lists["training"], validation=lists["validation"])
