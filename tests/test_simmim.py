"""The Swin encoder trained without labels: what is hidden, resuming, and the way into the other networks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

import networks
from networks.classifier import MaskedImageModel
from networks.errors import UserError
from networks.state_dicts import read_weights
from networks.workflow import HiddenL1, HidePatchesd
from networks.workflow.training import StopOnNan
from tests.classifying import chain, options, paths
from tests.tables import rows_of
from tests.workflows import run, same_state


@pytest.fixture(scope="module")
def pretrained(texture_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of two epochs."""
    folder = tmp_path_factory.mktemp("simmim")
    run(paths("simmim"), "train", "training", **options(folder, texture_dir, mask_size=8))
    return folder


def test_training_leaves_log_record_and_pictures(pretrained: Path) -> None:
    rows = rows_of(pretrained / "eval" / "simmim" / "metrics.csv")
    assert [list(row) for row in rows] == [["epoch", "loss", "learning_rate", "val_l1"]] * 2
    record = json.loads((pretrained / "models" / "simmim" / "model.json").read_text())
    assert record["data_set"] == {"name": "phantom", "training": 24, "validation": 8}
    assert record["val_l1"] == min(float(row["val_l1"]) for row in rows)
    assert record["ids"]["mask_size"] == 8 and record["ids"]["depths"] == [1, 1, 1, 1]
    sheet = np.asarray(Image.open(pretrained / "eval" / "simmim" / "painted.png"))
    assert sheet.shape == (6 * 34 + 2, 3 * 34 + 2, 3)  # with seams of two pixels
    original, seen, painted = (sheet[2:34, left : left + 32].astype(int) for left in (2, 36, 70))
    hidden = (seen == 128).all(axis=2)
    assert hidden.mean() == pytest.approx(10 / 16, abs=0.05)  # of 4 x 4 patches, 60 % rounded up
    assert np.array_equal(original[~hidden], painted[~hidden]) and not np.array_equal(original, painted)


def test_stopped_training_resumes_to_the_same_end(
    pretrained: Path, texture_dir: Path, tmp_path: Path, monkeypatch
) -> None:
    """Crops, flips, masks and the order of the pictures are those of a training without the stop."""
    check = StopOnNan.check_network

    def stop(self: StopOnNan, engine: Any) -> None:
        if engine.state.epoch == 2:
            raise KeyError
        check(self, engine)

    with monkeypatch.context() as patched:
        patched.setattr(StopOnNan, "check_network", stop)
        with pytest.raises(RuntimeError, match="Failed to evaluate"):
            run(paths("simmim"), "train", "training", **options(tmp_path, texture_dir, mask_size=8))
    run(paths("simmim"), "train", "training", **options(tmp_path, texture_dir, mask_size=8, resume=True))
    files = [folder / "models" / "simmim" / "model.pt" for folder in (tmp_path, pretrained)]
    assert same_state(*map(read_weights, files))


def test_the_encoder_goes_on(pretrained: Path, texture_dir: Path, tmp_path: Path) -> None:
    """Into the classifier's training by ``--pretrained``, and from both into a network that segments."""
    source = pretrained / "models" / "simmim" / "model.pt"
    trained = read_weights(source)
    wanted = options(tmp_path, texture_dir, pretrained=str(source), epochs=1, learning_rate=1e-12)
    run(paths("train"), "train", "training", **wanted)
    state = read_weights(tmp_path / "models" / "model.pt")
    names = [name for name in state if name.startswith("encoder.")]
    for name in names:
        torch.testing.assert_close(state[name], trained[name], atol=1e-7, rtol=0)
    sizes = {"embed_dim": 12, "num_heads": (1, 1, 2, 2), "depths": (1, 1, 1, 1), "window_size": 4}
    for file in (source, tmp_path / "models" / "model.pt"):
        network = networks.create_model("swin_unet", pretrained=file, img_size=32, **sizes)
        given, own = read_weights(file), network.state_dict()
        assert all(torch.equal(own[name], given[name]) for name in names)


@pytest.mark.parametrize(("size", "side", "patches"), [(112, 32, 16), (224, 32, 49), (50, 8, 49)])
def test_hidden_patches(size: int, side: int, patches: int) -> None:
    """The same share of whole patches, cut at the end; new ones at every call, or always the same for a name."""
    image = {"image": torch.zeros(3, size, size), "name": "a.png"}
    hide, fixed = HidePatchesd(side, 0.6), HidePatchesd(side, 0.6, by_name=True)
    hide.set_random_state(0)
    one, other = (hide(image)["mask"] for _ in range(2))
    assert one.shape == (1, size, size) and not torch.equal(one, other)
    assert one[0, ::side, ::side].sum() == np.ceil(0.6 * patches)
    assert torch.equal(one[:, : side // 2], one[:, side // 2 : side // 2 * 2])
    assert torch.equal(fixed(image)["mask"], fixed(image)["mask"])
    assert not torch.equal(fixed(image)["mask"], fixed(image | {"name": "b.png"})["mask"])


def test_only_hidden_pixels_count() -> None:
    image, mask = torch.randn(2, 3, 8, 8), torch.zeros(2, 1, 8, 8)
    mask[0, :, :4] = 1
    painted = image + torch.where(mask > 0, 0.5, 100.0)
    assert HiddenL1()(painted, torch.cat([image, mask], 1)).item() == pytest.approx(0.5, abs=1e-5)


def test_one_channel_and_an_odd_grid(texture_dir: Path, tmp_path: Path) -> None:
    """112 pixels have 3.5 tokens at the deepest level, and the stem keeps three channels for grey."""
    wanted = options(tmp_path, texture_dir, in_channels=1, epochs=1, batch_size=24)
    run(paths("simmim"), "train", "training", **wanted | {"img_size": [112, 112], "short_side": 112, "window_size": 7})
    state = read_weights(tmp_path / "models" / "simmim" / "model.pt")
    assert state["encoder.patch_embed.proj.weight"].shape[1] == 3 and state["painter.0.weight"].shape[0] == 32**2


def test_another_number_of_channels_is_refused() -> None:
    network = MaskedImageModel(1, 32, depths=[1, 1], num_heads=[3, 6], window_size=4)
    with pytest.raises(UserError, match="3 channels but the network expects 1"):
        network(torch.rand(2, 3, 32, 32))


def test_required_properties(texture_dir: Path, tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=paths("simmim"), workflow_type="train", logging_file=False, **options(tmp_path, texture_dir)
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_patches_of_part_tokens_are_refused(texture_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:
        run(paths("simmim"), "train", "training", **options(tmp_path, texture_dir, mask_size=30))
    assert "mask_size is 30; expected a multiple of 4" in chain(caught.value)
