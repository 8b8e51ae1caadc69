"""What a command line and its config files may say, and the sentence for everything else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from networks.errors import UserError
from networks.workflow import check_options, truth
from networks.workflow.arguments import check_command_line, config_files, split_arguments
from networks.workflow.config_files import check_configs, read_config
from networks.workflow.errors import REPORT, user_error
from networks.workflow.ids import IDS
from scripts.catalog.bundles import BY_NAME
from tests.commands import run_command
from tests.workflows import run, training_overrides

PROGRAM = "monai/bundle/__main__.py"
TRAIN, ACDC, EVALUATE = (f"bundles/swin_unet/configs/{name}.json" for name in ("train", "presets/acdc", "evaluate"))


@pytest.mark.parametrize("text", ["false", "False", "FALSE", "no", "off", "0", False, 0])
def test_texts_that_mean_false(text: object) -> None:
    assert truth(text) is False


@pytest.mark.parametrize("text", ["true", "True", "TRUE", " yes", "on", "1", True, 1])
def test_texts_that_mean_true(text: object) -> None:
    assert truth(text) is True


@pytest.mark.parametrize("text", ["", "falsee", "nein", 2, -1, None, [], "None"])
def test_texts_that_mean_neither(text: object) -> None:
    with pytest.raises(UserError, match="no truth value"):
        truth(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("resume", "amp", "check_data") for value in ("falsch", 2, None, "")],
        *[("epochs", value) for value in (0, -1, 1.5, "3", None, True, float("nan"))],
        *[("batch_size", value) for value in (0, 2.0, "4")],
        *[("num_workers", value) for value in (-1, 0.5)],
        *[("learning_rate", value) for value in (0, -0.1, float("inf"), float("nan"), "1e-3", True)],
        *[
            ("img_size", value)
            for value in ([1, 1], [224], 224, [224, 224, 224], [224, 22.4], [0, 224], "224", [8, 64])
        ],
        *[("intensity_range", value) for value in ([5, 5], [5, 4], [1], 5, ["a", "b"], [0, float("inf")])],
        *[("intensity_percentiles", value) for value in ([0, 101], [-1, 99], [50, 50])],
        *[("out_channels", value) for value in (1, 0, 257, 2.5)],
        *[("spatial_dims", value) for value in (1, 4, "3")],
        *[("cache_rate", value) for value in (-0.1, 1.1, "all")],
        *[("dataset_dir", value) for value in ("", 3, None, ["a"])],
        *[("device", value) for value in ("gpu", "cuda:99", 3.5)],
        *[("pretrained", value) for value in ("", [], [3], 5)],
        *[("seed", value) for value in (-1, 2**32, 0.5)],
    ],
)
def test_values_that_are_not_possible(name: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"--{name} is .*; expected {IDS[name].kind.text[:5]}"):
        check_options(**{name: value})


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(UserError, match=r"--epochs is 0; .*; --learning_rate is -1; expected a number above 0\."):
        check_options(epochs=0, learning_rate=-1, batch_size=4, upsample="anything")


def test_options_of_a_run_are_checked_before_anything_is_built(ct_dir: Path, tmp_path: Path) -> None:
    options = training_overrides(BY_NAME["swin_unet"], tmp_path / "out", ct_dir, epochs=1.5, img_size=[1, 1])
    with pytest.raises(Exception) as caught:
        run([TRAIN], **options)
    assert "--img_size is [1, 1]" in str(user_error(caught.value))
    assert "--epochs is 1.5" in str(user_error(caught.value))
    assert not (tmp_path / "out").exists()


def refused(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        check_command_line([PROGRAM, "run", *words])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_forgotten_quotes() -> None:
    text = refused("training", "--config_file", TRAIN, ACDC)
    assert text.startswith(ACDC)
    assert f"['{TRAIN}','{ACDC}']" in text
    assert ACDC in refused("--config_file", TRAIN, ACDC)
    assert "belongs to no option" in refused("--config_file", f"['{TRAIN}',", f"'{ACDC}']")


def test_options_that_monai_would_drop_or_misread() -> None:
    assert "there twice" in refused("--config_file", TRAIN, "--config_file", ACDC)
    assert "has no value" in refused("--config_file", TRAIN, "--resume")
    assert "has no value" in refused("--config_file", TRAIN, "--resume", "--epochs", "3")
    assert "'$None'" in refused("--config_file", TRAIN, "--pretrained", "None")
    assert "did you mean epochs" in refused("--config_file", TRAIN, "--epohcs", "3")
    assert "no --config_file" in refused("training")
    assert "have no 'train::trainers'" in refused("--config_file", TRAIN, "--train::trainers::max_epochs", "3")
    assert "no id 'trian'" in refused("trian", "--config_file", TRAIN)
    assert "did you mean training" in refused("trainig", "--config_file", TRAIN)
    assert "does not exist" in refused("--config_file", TRAIN, "--meta_file", "nowhere.json")


def test_what_is_right_passes() -> None:
    both = f"['{TRAIN}','{ACDC}']"
    for words in (
        ("training", "--config_file", both),
        ("--config_file", f"[{TRAIN},{EVALUATE}]", "--split", "validation"),
        ("--config_file", f"{TRAIN},{EVALUATE}", "--epochs=3", "--network_def::embed_dim", "48"),
        ("--config_file", TRAIN, "--train#trainer#max_epochs", "3", "--validate::handlers::0::_disabled_", "True"),
    ):
        check_command_line([PROGRAM, "run", *words])
    check_command_line([PROGRAM, "run", "--help"])
    check_command_line(["pytest", "--nonsense", "3"])


def test_command_lines_are_split_as_fire_does() -> None:
    assert split_arguments(["training", "--a", "1", "--b=x=y", "--c", "-3"]) == (
        ["training"],
        {"a": "1", "b": "x=y", "c": "-3"},
    )
    assert config_files("['a.json', 'b.json']") == config_files("[a.json,b.json]") == config_files("a.json,b.json")


def test_missing_config_names_its_neighbour() -> None:
    with pytest.raises(UserError, match=r"presets/acdk\.json does not exist; did you mean .*acdc\.json"):
        read_config("bundles/swin_unet/configs/presets/acdk.json")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", '{"a": 1,}', "syntax error"),
        ("a.json", '{"a": 1, "a": 2}', "the key .a. twice"),
        ("a.json", '{"a": {"b": 1, "b": 2}}', "the key .b. twice"),
        ("a.json", "[1]", "holds a list"),
        ("a.json", "", "syntax error"),
        ("a.json", '\ufeff{"a": 1}', "syntax error"),
        ("a.yaml", "a: [1", "syntax error"),
        ("a.yaml", "a: 1\na: 2", "the key .a. twice"),
        ("a.yaml", "text", "holds a str"),
        ("a.txt", "{}", "ends in neither"),
    ],
)
def test_files_that_are_no_config(name: str, text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def overlay(folder: Path, content: dict) -> str:
    path = folder / "overlay.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_overlays(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sets 'epohcs'.*did you mean epochs"):
        check_configs([TRAIN, overlay(tmp_path, {"epohcs": 3})], {})
    check_configs([TRAIN, overlay(tmp_path, {"epochs": 3, "_note": "mine"})], {})
    check_configs([TRAIN, overlay(tmp_path, {"my_rate": 0.1, "learning_rate": "@my_rate"})], {})
    with pytest.raises(UserError, match=r"changes 'train::.*give the config that it is an overlay of first"):
        check_configs([overlay(tmp_path, {"train::handlers": []}), TRAIN], {})
    with pytest.raises(UserError, match="give the config that it is an overlay of first"):
        check_configs([ACDC, TRAIN], {})
    with pytest.raises(UserError, match="give the config that it is an overlay of first"):
        check_configs([EVALUATE], {})


def test_yaml_overlay_runs(ct_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 1\nlearning_rate: 0.001\n")
    options = training_overrides(BY_NAME["swin_unet"], tmp_path / "out", ct_dir)
    options.pop("epochs")
    workflow = run([TRAIN, str(path)], **options)
    assert workflow.parser.get_parsed_content("epochs") == 1
    assert (tmp_path / "out" / "models" / "model.pt").is_file()


def test_mistakes_that_monai_meets_first_are_one_sentence(tmp_path: Path) -> None:
    done = run_command(["-m", "networks", "run", "training", "--config_file", str(tmp_path / "train.json")])
    assert done.poll() == 1
    assert done.out == ""
    assert done.err.strip().endswith("train.json does not exist.")


def test_a_bug_keeps_its_traceback_and_asks_for_a_report() -> None:
    code = "import sys\nfrom networks.workflow.errors import report_errors\nreport_errors()\n"
    for error, expected in (("KeyError('progress')", REPORT), ("UserError('Give b.')", "Error: Give b.")):
        raised = f"{code}from networks.errors import UserError\ndef work():\n    raise {error}\nwork()"
        path = Path(__file__).with_name("bug.py")
        program = f"exec(compile({raised!r}, {str(path)!r}, 'exec'))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.strip().splitlines()[-1] == expected
        assert ("Traceback" in done.stderr) == (expected == REPORT)


def test_mistakes_inside_a_config_are_told_from_bugs() -> None:
    parser = ConfigParser({"net": {"_target_": "networks.SwinUnet", "depht": 3}, "gone": "@nowhere", "wrong": "$[][3]"})
    for name, said in (("net", "depht"), ("gone", "nowhere"), ("wrong", "IndexError")):
        with pytest.raises(Exception) as caught:
            parser.get_parsed_content(name)
        assert said in str(user_error(caught.value))
    with pytest.raises(KeyError) as bug:
        {}["progress"]
    assert user_error(bug.value) is None
