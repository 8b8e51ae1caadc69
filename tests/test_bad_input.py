"""Every mistake of a user gets one sentence that names the file or value, before the first batch."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from networks.errors import UserError
from networks.phantom import write_precipitate_phantom
from networks.workflow import list_images
from networks.workflow.errors import user_error
from scripts.catalog.bundles import BY_NAME
from tests.commands import run_command
from tests.workflows import command_line, config_paths, run, tiny_overrides, training_overrides

SWIN_UNET = BY_NAME["swin_unet"]
TRAIN = config_paths(SWIN_UNET, "train")
EVALUATE = config_paths(SWIN_UNET, "train", "evaluate")
INFER = config_paths(SWIN_UNET, "inference")


@pytest.fixture
def broken(ct_dir: Path, tmp_path: Path) -> Path:
    """A copy of the phantom to break."""
    return Path(shutil.copytree(ct_dir, tmp_path / "broken"))


def sentence_of(files: list[str], **overrides) -> str:
    """The sentence that a failing run ends with."""
    with pytest.raises(Exception) as caught:
        run(files, **overrides)
    error = user_error(caught.value)
    assert error is not None, f"not a sentence for the user: {caught.value!r}"
    text = str(error)
    assert "\n" not in text
    return text


def first_pair(folder: Path) -> tuple[Path, Path]:
    item = json.loads((folder / "dataset.json").read_text())["training"][0]
    return folder / item["image"], folder / item["label"]


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the voxels of a NIfTI file."""
    volume = nib.load(path)
    data = change(np.asarray(volume.dataobj).copy())
    nib.save(nib.Nifti1Image(data, volume.affine), path)


def edit_json(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_missing_folder(tmp_path: Path) -> None:
    text = sentence_of(TRAIN, **training_overrides(SWIN_UNET, tmp_path, tmp_path / "nowhere"))
    assert "nowhere does not exist" in text


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    text = sentence_of(TRAIN, **training_overrides(SWIN_UNET, tmp_path, tmp_path / "empty"))
    assert "has no dataset.json" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds a list"),
        ('{"training": {}}', "'training' must be a list"),
        ('{"training": []}', "lists no cases"),
        ('{"training": [{"image": "a.nii.gz"}]}', "is malformed"),
        ('{"training": [{"image": "a.nii.gz", "label": 3}]}', "is malformed"),
        ('{"training": [{"image": "a.nii.gz", "label": "b.nii.gz"}]}', "there is no such file"),
    ],
)
def test_malformed_dataset_json(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(content)
    text = sentence_of(TRAIN, **training_overrides(SWIN_UNET, tmp_path / "out", tmp_path))
    assert said in text
    assert "dataset.json" in text


def test_nothing_to_validate_on(broken: Path, tmp_path: Path) -> None:
    edit_json(broken, lambda content: content.update(training=content["training"][:1], validation=[]))
    assert "none can be kept for validation" in sentence_of(TRAIN, **training_overrides(SWIN_UNET, tmp_path, broken))


def test_truncated_nifti(broken: Path, tmp_path: Path) -> None:
    image, _ = first_pair(broken)
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    text = sentence_of(TRAIN, **training_overrides(SWIN_UNET, tmp_path, broken))
    assert image.name in text
    assert "cannot be read" in text


def test_shapes_differ(broken: Path, tmp_path: Path) -> None:
    _, label = first_pair(broken)
    rewrite(label, lambda data: data[:-1])
    text = sentence_of(TRAIN, **training_overrides(SWIN_UNET, tmp_path, broken))
    assert label.name in text
    assert "(59, 48, 6)" in text


def test_label_values_beyond_the_classes(broken: Path, tmp_path: Path) -> None:
    _, label = first_pair(broken)

    def spoil(data: np.ndarray) -> np.ndarray:
        data[0, 0, :2] = (11, 255)
        return data

    rewrite(label, spoil)
    text = sentence_of(TRAIN, **training_overrides(SWIN_UNET, tmp_path, broken))
    assert label.name in text
    assert "11, 255" in text
    assert "0..8" in text


def test_too_few_classes(ct_dir: Path, tmp_path: Path) -> None:
    text = sentence_of(TRAIN, **training_overrides(SWIN_UNET, tmp_path, ct_dir, out_channels=4))
    assert "0..3" in text
    assert "--out_channels" in text


def test_channel_count(ct_dir: Path, tmp_path: Path) -> None:
    text = sentence_of(TRAIN, **training_overrides(SWIN_UNET, tmp_path, ct_dir, in_channels=3))
    assert "has 1 channels, but the network takes 3" in text


def test_pictures_in_a_config_for_volumes(tmp_path: Path) -> None:
    write_precipitate_phantom(tmp_path / "pictures", 1, 1, 1, size=(48, 48))
    text = sentence_of(TRAIN, **training_overrides(SWIN_UNET, tmp_path, tmp_path / "pictures"))
    assert "has 2 spatial dimensions, but this config is for volumes" in text
    assert "such as robust_pictures" in text


def test_training_that_would_never_validate(ct_dir: Path, tmp_path: Path) -> None:
    text = sentence_of(TRAIN, **training_overrides(SWIN_UNET, tmp_path, ct_dir, val_interval=3))
    assert "val_interval is 3" in text


def test_patience_that_ends_before_the_first_validation(ct_dir: Path, tmp_path: Path) -> None:
    options = training_overrides(SWIN_UNET, tmp_path, ct_dir, epochs=9, val_interval=4, patience=3)
    assert "give --patience at least 4, or 0" in sentence_of(TRAIN, **options)


def test_nan_in_image(broken: Path, tmp_path: Path) -> None:
    image, _ = first_pair(broken)

    def spoil(data: np.ndarray) -> np.ndarray:
        data = data.astype(np.float32)
        data[1, 2, 3] = np.nan
        return data

    rewrite(image, spoil)
    text = sentence_of(TRAIN, **training_overrides(SWIN_UNET, tmp_path, broken))
    assert image.name in text
    assert "1 values that are NaN" in text


def test_impossible_network_option(ct_dir: Path, tmp_path: Path) -> None:
    text = sentence_of(TRAIN, **training_overrides(SWIN_UNET, tmp_path, ct_dir, num_skips=7))
    assert "num_skips=7" in text
    assert "0 to 3" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"out_channels": 5}, "--out_channels"),
        ({"network_def::num_skips": 1}, "another architecture"),
        ({"network_def::embed_dim": 48}, "another shape"),
    ],
)
def test_checkpoint_of_another_network(change: dict, said: str, ct_dir: Path, tmp_path: Path) -> None:
    options = training_overrides(SWIN_UNET, tmp_path, ct_dir, epochs=1)
    run(TRAIN, **options)
    text = sentence_of(INFER, **{**tiny_overrides(SWIN_UNET, tmp_path, ct_dir), **change})
    assert "model.pt" in text
    assert said in text


def test_missing_and_unreadable_checkpoints(ct_dir: Path, tmp_path: Path) -> None:
    options = tiny_overrides(SWIN_UNET, tmp_path, ct_dir)
    assert "model.pt does not exist" in sentence_of(EVALUATE, **options)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_bytes(b"not a checkpoint")
    assert "is not a readable checkpoint" in sentence_of(INFER, **options)


def test_checkpoint_that_would_run_code(ct_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    torch.save({"network": Path(tmp_path)}, tmp_path / "models" / "model.pt")
    text = sentence_of(INFER, **tiny_overrides(SWIN_UNET, tmp_path, ct_dir))
    assert "is not a readable checkpoint of tensors" in text


def test_nan_loss_keeps_the_last_good_checkpoint(ct_dir: Path, tmp_path: Path) -> None:
    options = training_overrides(SWIN_UNET, tmp_path, ct_dir)
    run(TRAIN, **{**options, "epochs": 1})
    good = (tmp_path / "models" / "last.pt").read_bytes()
    best = (tmp_path / "models" / "model.pt").read_bytes()
    text = sentence_of(TRAIN, **{**options, "epochs": 3, "resume": True, "loss::lambda_ce": float("nan")})
    assert "loss became nan in epoch 2" in text
    assert (tmp_path / "models" / "last.pt").read_bytes() == good
    assert (tmp_path / "models" / "model.pt").read_bytes() == best


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match="holds no image"):
        list_images(str(tmp_path))


def test_one_image_or_a_folder_of_images(tmp_path: Path) -> None:
    for name in ("b.png", "a.PNG", ".hidden.png"):
        Image.new("L", (4, 4)).save(tmp_path / name, format="png")
    assert [Path(item["image"]).name for item in list_images(str(tmp_path))] == ["a.PNG", "b.png"]
    assert list_images(str(tmp_path / "b.png")) == [{"image": str(tmp_path / "b.png")}]


def test_results_are_no_input_and_none_is_of_two_images(tmp_path: Path) -> None:
    for name in ("a.png", "deep/a.png", "out/a_seg.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = list_images(str(tmp_path), output_dir=str(tmp_path / "out"))
    assert [Path(item["image"]).relative_to(tmp_path).as_posix() for item in found] == ["a.png", "deep/a.png"]
    assert (
        len(list_images(str(tmp_path / "out"), output_dir=str(tmp_path))) == 1
    )  # what holds the input is no part of it
    (tmp_path / "deep" / "a.tif").touch()
    with pytest.raises(UserError, match=r"a\.png and .*a\.tif would have one result"):
        list_images(str(tmp_path))


def test_command_line_prints_the_sentence_and_ends_with_1(tmp_path: Path) -> None:
    options = training_overrides(SWIN_UNET, tmp_path, tmp_path / "nowhere")
    done = run_command(command_line(TRAIN, **options))
    assert done.poll() == 1
    assert "Traceback" not in done.err
    assert done.err.strip().splitlines()[-1].startswith("Error: The data set folder")


def test_command_line_refuses_unknown_keys(ct_dir: Path, tmp_path: Path) -> None:
    options = training_overrides(SWIN_UNET, tmp_path, ct_dir, epoch=3)
    done = run_command(command_line(TRAIN, **options))
    assert done.poll() == 1
    assert done.err.strip().splitlines()[-1].startswith("Error: --epoch is not an id")
    assert "did you mean epochs" in done.err
