"""Suites as they are read and checked."""

from pathlib import Path

import pytest
from fire.parser import DefaultParseValue

from networks.errors import UserError
from scripts.experiments.__main__ import run
from scripts.experiments.runs import RunFolder
from scripts.experiments.suite import load_suite
from tests.suites import write_suite
from tests.workflows import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "suites").glob("*.json")), ids=lambda path: path.stem)
def test_suites_that_come_with_the_project(path: Path) -> None:
    suite = load_suite(path)
    assert suite.name == path.stem
    assert suite.prepare.keys() == {run.dataset_dir for run in suite.runs}


def test_cross_product_leaves_out_weights_that_a_network_has_not(tmp_path: Path, micrograph_dir: Path) -> None:
    networks = {
        "A": {"bundle": "unet", "options": {"batch_size": 3, "epochs": 9}},
        "B": {"bundle": "cs_unet"},
    }
    path = write_suite(
        tmp_path,
        micrograph_dir,
        networks=networks,
        pretraining={"none": None, "ImageNet": {"A": "a.pth"}},
        seeds=[0, 7],
    )
    found = load_suite(path).runs
    assert len({run.name for run in found}) == len(found) == 2 * 3
    (pretrained,) = [run for run in found if run.pretraining == "ImageNet" and run.seed == 7]
    assert pretrained.options == {"epochs": 9, "batch_size": 3, "pretrained": "a.pth"}
    assert pretrained.name == "Phantom__A__ImageNet__short__seed7"


def test_excluded_runs(tmp_path: Path, micrograph_dir: Path) -> None:
    networks = {name: {"bundle": "unet"} for name in "AB"}
    exclude = [{"network": "A", "seed": [1, 2]}, {"network": "B", "seed": 0}]
    suite = load_suite(write_suite(tmp_path, micrograph_dir, networks=networks, seeds=[0, 1, 2], exclude=exclude))
    assert [(run.network, run.seed) for run in suite.runs] == [("A", 0), ("B", 1), ("B", 2)]


def test_options_reach_the_bundle_as_they_are(tmp_path: Path, micrograph_dir: Path) -> None:
    options = {"loss": {"softmax": True, "weight": None, "lambda_ce": 0.5}, "img_size": [48, 48], "resume": None}
    folder = RunFolder(load_suite(write_suite(tmp_path, micrograph_dir, recipes={"short": options})).runs[0], tmp_path)
    arguments = folder._arguments("train")
    given = dict(zip(arguments[3::2], arguments[4::2], strict=True))
    assert DefaultParseValue(given["--loss"]) == options["loss"]
    assert DefaultParseValue(given["--img_size"]) == options["img_size"]


def test_pretrained_files_are_those_of_the_folder_it_is_started_in(
    tmp_path: Path, micrograph_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = {name: {"bundle": "cs_unet"} for name in "AB"}
    sources = {"A": "weights/a.pth", "B": ["resnet50", "weights/a.pth"]}
    suite = load_suite(write_suite(tmp_path, micrograph_dir, networks=networks, pretraining={"other": sources}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^weights/a\.pth, from which A of the suite trial starts, is neither a file"):
        run(str(tmp_path / "trial.json"), str(tmp_path / "runs"), only="__A__")
    assert not (tmp_path / "runs").exists()
    file = tmp_path / "weights" / "a.pth"
    file.parent.mkdir()
    file.touch()
    suite.check_sources(suite.runs)
    for asked, expected in zip(suite.runs, (str(file), ["resnet50", str(file)]), strict=True):
        arguments = RunFolder(asked, tmp_path / "runs")._arguments("train")
        assert DefaultParseValue(arguments[arguments.index("--pretrained") + 1]) == expected


def test_pretrained_files_of_one_name_are_told_apart(tmp_path: Path, micrograph_dir: Path) -> None:
    sources = [tmp_path / name / "model.pt" for name in ("cnn", "swin")]
    for source in sources:
        source.parent.mkdir()
        source.write_text(source.parent.name)
    pretraining = {"own": {"CS-UNet": [str(source) for source in sources]}}
    folder = RunFolder(load_suite(write_suite(tmp_path, micrograph_dir, pretraining=pretraining)).runs[0], tmp_path)
    begun = {"spec": folder.run.spec(), "digests": folder.digests(), "done": {}, "error": ""}
    for number, source in enumerate(sources, start=1):
        source.write_text("another")
        assert folder.changes(begun) == [f"model.pt ({number})"]
        source.write_text(source.parent.name)
    assert not folder.changes(begun)


def test_options_of_evaluation_stay_out_of_the_training(tmp_path: Path, micrograph_dir: Path) -> None:
    options = {"tta": True, "epochs": 2, "img_size": [48, 48]}
    folder = RunFolder(load_suite(write_suite(tmp_path, micrograph_dir, recipes={"short": options})).runs[0], tmp_path)
    assert "--tta" not in folder._arguments("train")
    assert "--tta" in folder._arguments("test strict") and "--img_size" in folder._arguments("train")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"networks": {"A": {"bundle": "vnet"}}}, "no bundle 'vnet'; choose from swin_unet"),
        ({"networks": {"A": {"bundle": "levit_unet"}}}, "has no preset 'nasa_super'"),
        (
            {"networks": {"A": {"bundle": "unet", "option": {}}}},
            'the network A has "option"; known are bundle, options',
        ),
        ({"data_sets": {"X": {"preset": "nasa_super"}}}, 'the data set X has no "dataset_dir"'),
        ({"protocols": ["strict", "loose"]}, "'loose' does not exist"),
        ({"recipe": {}}, 'has "recipe"'),
        ({"seeds": [1, 1]}, "two runs called"),
        ({"exclude": [{"net": "A"}]}, 'an item of exclude has "net"; known are data_set'),
        ({"exclude": [{"seed": 0}]}, "has no runs"),
        # what is spelt otherwise would leave runs in, or out, without a word
        ({"exclude": [{"data_set": ["Phantom", "phantom"]}]}, "names the data_set 'phantom'"),
        (
            {"exclude": [{"seed": 1}]},
            "names the seed 1 under pretraining or exclude, but has none of that label; it has 0.",
        ),
        ({"pretraining": {"ImageNet": {"CS-Unet": "x"}, "none": None}}, "names the network 'CS-Unet'"),
        ({"pretraining": {"ImageNet": "CS-UNet.pth"}}, "expected labels with null or sources by network"),
        ({"seeds": 3}, '"seeds" of the suite is 3; expected a JSON list'),
        ({"networks": ["A"]}, "\"networks\" of the suite is ['A']; expected a JSON object"),
        (
            {"data_sets": {"X": {"dataset_dir": "x", "preset": "nasa_super", "splits": "test"}}},
            "\"splits\" of the data set X is 'test'; expected a JSON list",
        ),
    ],
)
def test_mistakes_in_a_suite(changes: dict, said: str, tmp_path: Path, micrograph_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"trial\.json") as error:
        load_suite(write_suite(tmp_path, micrograph_dir, **changes))
    assert said in str(error.value)


def test_missing_data_says_how_it_is_made(tmp_path: Path) -> None:
    data_sets = {"X": {"dataset_dir": str(tmp_path / "x"), "preset": "nasa_super", "prepare": "make x"}}
    with pytest.raises(UserError, match="does not exist; make it by: make x"):
        run(str(write_suite(tmp_path, tmp_path, data_sets=data_sets)), runs_dir=str(tmp_path / "runs"))


def test_only_the_data_of_the_runs_to_do_is_needed(tmp_path: Path, micrograph_dir: Path) -> None:
    there = {"dataset_dir": str(micrograph_dir), "preset": "nasa_super"}
    missing = {"dataset_dir": str(tmp_path / "missing"), "preset": "nasa_super"}
    suite = load_suite(write_suite(tmp_path, tmp_path, data_sets={"Here": there, "There": missing}))
    suite.check_data(run for run in suite.runs if run.data_set == "Here")
    with pytest.raises(UserError, match="missing, the data set There of the suite trial, does not exist"):
        suite.check_data(suite.runs)


def test_lists_of_all_data_sets_in_one_folder_are_looked_for(tmp_path: Path, micrograph_dir: Path) -> None:
    data_sets = {
        name: {"dataset_dir": str(micrograph_dir), "preset": "nasa_super", "splits": [split]}
        for name, split in (("Others", "different_test"), ("Phantom", "test"))
    }
    suite = load_suite(write_suite(tmp_path, micrograph_dir, data_sets=data_sets))
    with pytest.raises(UserError, match='has no list "different_test"'):
        suite.check_data(suite.runs)
