"""This project's own recipe: its parts, that each can be left out, and trainings that go on as they would have."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data.utils import set_rnd
from monai.inferers import SimpleInferer, SliceInferer, SlidingWindowInferer
from monai.losses import DiceLoss
from monai.transforms import Compose, Lambdad, Randomizable
from torch import nn
from torch.nn import functional as F

from networks.errors import UserError
from networks.state_dicts import read_weights
from networks.workflow import (
    BalancedDiceCELoss,
    ClipGradients,
    FlipInferer,
    SliceDataset,
    WeightAverage,
    balanced_weights,
    count_classes,
    flipped,
    trained_classes,
)
from scripts.catalog.augmentation import compose, mild_augmentation, robust_augmentation
from scripts.catalog.bundles import BY_NAME
from tests.probe import train_in_two
from tests.workflows import config_paths, run, same_state, tiny_network, training_overrides

UNET = BY_NAME["attention_unet"]  # has batch normalisation
PRESETS = ["robust_volumes", "robust_pictures"]
OFF = {
    "spatial_augmentation": "false",
    "intensity_augmentation": "false",
    "flips": "none",
    "balanced_sampling": "false",
    "ema_momentum": 0,
    "max_grad_norm": 0,
    "warm_up": 0,
}


def config(preset: str, data_dirs: dict[str, Path], **options) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(config_paths(UNET, "train", f"presets/{preset}"))
    data = data_dirs[UNET.presets[preset].kind]
    parser.update({**tiny_network(UNET), "dataset_dir": str(data), "img_size": [48, 48], "device": "cpu", **options})
    return parser


def named(transform: Compose) -> list[str]:
    """Names of transforms, those inside of others as well."""
    found = [type(transform).__name__]
    return found + [name for part in getattr(transform, "transforms", ()) for name in named(part)]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_part_can_be_left_out(preset: str, data_dirs: dict[str, Path]) -> None:
    with_all, without = config(preset, data_dirs), config(preset, data_dirs, **OFF)
    parts = named(with_all.get_parsed_content("train::preprocessing"))
    for name in ("RandAffined", "RandAdjustContrastd", "RandGaussianSmoothd", "RandSimulateLowResolutiond"):
        assert name in parts
    assert ("RandFlipd" in parts) == (preset == "robust_pictures")
    left = [name for name in named(without.get_parsed_content("train::preprocessing")) if name.startswith("Rand")]
    assert left == ([] if preset == "robust_volumes" else ["RandSpatialCropd"])
    weighed = config(preset, data_dirs, balanced_loss="true")
    assert weighed.get_parsed_content("loss").cross_entropy.weight is not None
    assert without.get_parsed_content("loss").cross_entropy.weight is None
    average = without.get_parsed_content("average")
    assert average.network is without.get_parsed_content("network") and average.state_dict() == {}
    for parser in (with_all, without):
        sample = parser.get_parsed_content("train::dataset")[0]
        sample = sample[0] if isinstance(sample, list) else sample
        assert sample.keys() == {"image", "label"}
        assert sample["image"].shape[1:] == sample["label"].shape[1:] == (48, 48)
        assert [sample[key].dtype for key in ("image", "label")] == [torch.float32, torch.uint8]


@pytest.mark.parametrize("preset", PRESETS)
def test_images_are_normalised_by_themselves_or_by_a_range(preset: str, data_dirs: dict[str, Path]) -> None:
    parser = config(preset, data_dirs)
    case = parser.get_parsed_content("validate::dataset")[0]["image"]
    assert float(case.mean()) == pytest.approx(0, abs=1e-3) and float(case.std()) == pytest.approx(1, abs=1e-3)
    fixed = config(preset, data_dirs, intensity_range=[100, 110])  # less than there is in either
    case = fixed.get_parsed_content("validate::dataset")[0]["image"]
    assert (float(case.min()), float(case.max())) == pytest.approx((-2, 2), abs=1e-4)
    fixed.get_parsed_content("options")
    with pytest.raises(Exception, match="options"):
        config(preset, data_dirs, intensity_range=[5, 4]).get_parsed_content("options")


def test_the_same_recipe_for_all() -> None:
    for preset in PRESETS:
        contents = []
        for bundle in BY_NAME.values():
            path = Path(config_paths(bundle, f"presets/{preset}")[0])
            content = json.loads(path.read_text())
            own = {"validate::handlers", "reader", "in_channels", "spatial_dims", "window", "validate::inferer"}
            own |= {"train::dataset", "validate::preprocessing", *bundle.options}
            contents.append({k: v for k, v in content.items() if k not in own and not k.startswith("options::")})
        assert all(content == contents[0] for content in contents)


class _Slices(Randomizable):
    def __call__(self, data):
        return data


def test_slices_with_foreground_are_drawn_as_often(ct_dir: Path) -> None:
    label = np.zeros((1, 2, 2, 10), np.uint8)
    label[..., :1] = 1
    volume = {"image": np.arange(10.0)[None, None, None].repeat(2, 1).repeat(2, 2), "label": label}
    transform = Compose([Lambdad(("image", "label"), lambda path: volume[path]), _Slices()])
    pairs = [{"image": "image", "label": "label"}] * 2

    def drawn(**options) -> list[int]:
        dataset = SliceDataset(pairs, transform, slices_per_epoch=400, **options)
        set_rnd(dataset, seed=1)
        return [int(dataset[i]["image"].max()) for i in range(len(dataset))]

    half = drawn(foreground_share=0.5)
    assert len(half) == 400 and 160 < half.count(0) < 240 and set(half) == set(range(10))
    assert half == drawn(foreground_share=0.5)
    assert 20 < drawn().count(0) < 60 and drawn(foreground_share=0.1) == drawn()  # there is a tenth


def test_a_rare_class_does_not_outweigh_all_others() -> None:
    dataset = SimpleNamespace(voxels=torch.tensor([999_900, 100, 0]))
    plain, root = balanced_weights(dataset), balanced_weights(dataset, power=0.5)
    assert float(plain[1] / plain[0]) == pytest.approx(9999)
    assert float(root[1] / root[0]) == pytest.approx(9999**0.5)
    assert plain[2] == root[2] == 0


def test_weights_of_classes_are_those_of_the_cross_entropy_alone() -> None:
    """In the recipe of the papers, whose Dice has none."""
    sizes = {"to_onehot_y": True, "softmax": True, "squared_pred": True, "batch": True}
    logits, truth = torch.randn(2, 3, 8, 8), torch.randint(3, (2, 1, 8, 8))
    weight = torch.tensor([0.1, 0.2, 2.7])
    loss = BalancedDiceCELoss(weight, lambda_ce=0.7, lambda_dice=0.3, **sizes)
    by_hand = 0.7 * F.cross_entropy(logits, truth[:, 0], weight) + 0.3 * DiceLoss(**sizes)(logits, truth)
    torch.testing.assert_close(loss(logits, truth), by_hand)


@pytest.mark.parametrize("recipe", [mild_augmentation, robust_augmentation])
def test_scaling_and_shifting_are_along_both_axes(recipe) -> None:
    parser = ConfigParser({"img_size": [48, 48], "parts": compose(*recipe())})
    (affine,) = (part for part in find(parser["parts"]) if part["_target_"] == "RandAffined")
    parser.update({"affine": affine | {"rotate_range": 0.0, "padding_mode": "zeros"}, "img_size": [48, 48]})
    transform = parser.get_parsed_content("affine").set_random_state(0)
    square = torch.zeros(1, 48, 48)
    square[:, 16:32, 16:32] = 1
    sides, places = set(), set()
    for _ in range(20):
        moved = transform({"image": square, "label": square})["label"][0]
        rows, columns = moved.any(1).nonzero(), moved.any(0).nonzero()
        sides.add((len(rows), len(columns)))
        places.add((int(rows[0]), int(columns[0])))
    for found in (sides, places):
        assert all(len(set(axis)) > 3 for axis in zip(*found, strict=True))


@pytest.mark.parametrize("preset", ["synapse", "acdc"])
def test_batches_of_the_papers_recipe_come_from_workers(preset: str, ct_dir: Path) -> None:
    """What one process puts together by promoting types, a worker's buffer refuses."""
    parser = ConfigParser()
    parser.read_config(config_paths(BY_NAME["unet"], "train", f"presets/{preset}"))
    parser.update({"dataset_dir": str(ct_dir), "img_size": [48, 48], "device": "cpu", "num_workers": 1})
    parser.update({"batch_size": 6, "out_channels": 9, "cache_rate": 0.0})
    batches = iter(parser.get_parsed_content("train::dataloader"))
    assert {next(batches)["label"].dtype for _ in range(3)} == {torch.uint8}


def find(part: dict) -> list[dict]:
    """A transform's config and those inside of it."""
    return [part, *(inner for other in part.get("transforms", ()) for inner in find(other))]


def test_gradients_are_clipped_to_a_norm() -> None:
    network = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(network.parameters(), 1.0)
    asked = []
    engine = SimpleNamespace(
        scaler=SimpleNamespace(unscale_=asked.append),
        accumulation_steps=2,
        state=SimpleNamespace(iteration=1, epoch_length=3),
    )

    def norm() -> float:
        return float(torch.cat([p.grad.flatten() for p in network.parameters()]).norm())

    for iteration, clipped in ((1, False), (2, True), (3, True)):  # the last step of an epoch ends it
        engine.state.iteration = iteration
        optimizer.zero_grad()
        (100 * network(torch.ones(1, 3)).sum()).backward()
        ClipGradients(optimizer, 2.0)(engine)
        assert (norm() == pytest.approx(2)) == clipped
    assert asked == [optimizer, optimizer]
    engine.scaler = None
    before = norm()
    ClipGradients(optimizer, 1000.0)(engine)
    assert norm() == before


def test_average_of_the_weights() -> None:
    """By hand, with statistics of batch normalisation and counters."""
    network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    average = WeightAverage(network, 0.5)
    nn.init.constant_(network[0].weight, 7.0)  # as loaded after it was made

    def step(engine: Engine, batch: int) -> None:
        network[0].weight.data.fill_(float(batch))
        network(torch.randn(4, 1))

    trainer, expected, mean = Engine(step), 7.0, 0.0
    average.attach(trainer)
    means = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: means.append(float(network[1].running_mean)))
    trainer.run(range(1, 21), max_epochs=1)
    for t in range(1, 21):
        share = max(0.5, 10 / (10 + t))
        expected += share * (t - expected)
        mean += share * (means[t - 1] - mean)
    assert float(average.network[0].weight.detach()) == pytest.approx(expected)
    assert float(average.network[1].running_mean) == pytest.approx(mean, rel=1e-4, abs=1e-6)
    assert int(average.network[1].num_batches_tracked) == 20 and not average.network.training
    other = WeightAverage(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)), 0.5)
    other.load_state_dict(average.state_dict())
    assert same_state(other.state_dict(), average.state_dict())


@pytest.mark.parametrize("is_loaded", [False, True])
def test_average_begins_anew_with_weights_of_another(is_loaded: bool) -> None:
    """As a federation's server gives them for every round."""
    network = nn.Linear(1, 1, bias=False)
    average = WeightAverage(network, 0.001)
    trainer = Engine(lambda engine, batch: network.weight.data.fill_(float(batch)))
    average.attach(trainer)
    trainer.run(range(1, 21), max_epochs=1)
    expected = float(average.network.weight.detach())
    if is_loaded:
        network.load_state_dict({"weight": torch.full((1, 1), -50.0)})
        expected = -50.0
    trainer.run(range(1, 21), max_epochs=2)
    for t in range(1, 21):
        expected += 10 / (10 + t + (0 if is_loaded else 20)) * (t - expected)
    assert float(average.network.weight.detach()) == pytest.approx(expected)


def options_for(folder: Path, data: Path, preset: str, **others) -> dict:
    short = {"slices_per_epoch": 8} if preset == "robust_volumes" else {"crops_per_image": 4}
    return training_overrides(UNET, folder, data, **{**short, **others})


@pytest.mark.parametrize("preset", PRESETS)
def test_resumed_training_equals_one_without_interruption(
    preset: str, data_dirs: dict[str, Path], tmp_path: Path
) -> None:
    files = config_paths(UNET, "train", f"presets/{preset}")
    data = data_dirs[UNET.presets[preset].kind]
    run(files, **options_for(tmp_path / "whole", data, preset, epochs=3))
    part = options_for(tmp_path / "part", data, preset, epochs=3)
    overlay = tmp_path / "stop.json"
    overlay.write_text(json.dumps({"+train::handlers": [{"_target_": "tests.test_robust.StopAfter", "epoch": 2}]}))
    run([*files, str(overlay)], **part)
    assert read_weights(tmp_path / "part" / "models" / "last.pt")["progress"]["epoch"] == 2
    run(files, **part, resume="true")
    whole, resumed = (read_weights(tmp_path / name / "models" / "last.pt") for name in ("whole", "part"))
    assert whole["progress"] == resumed["progress"]
    for key in ("network", "average"):
        assert same_state(whole[key], resumed[key])
    assert not same_state(whole["network"], whole["average"])
    final = read_weights(tmp_path / "whole" / "models" / "model_final.pt")
    assert same_state(final, whole["average"])
    best = [read_weights(tmp_path / name / "models" / "model.pt") for name in ("whole", "part")]
    assert same_state(*best)
    record = json.loads((tmp_path / "whole" / "models" / "model.json").read_text())
    assert record["ids"]["preset"] == preset and record["ids"]["intensity_percentiles"] == [0.5, 99.5]
    assert trained_classes(tmp_path / "whole" / "models" / "last.pt") == record["ids"]["out_channels"]


class StopAfter:
    """End a training behind its last checkpoint, without a trace in it."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.epoch == self.epoch:
            engine.terminate()


@pytest.mark.parametrize("preset", PRESETS)
def test_properties_of_the_overlays(preset: str, data_dirs: dict[str, Path], tmp_path: Path) -> None:
    """What MONAI asks of a training config: a bundle is packed with its preset as the default."""
    files = config_paths(UNET, "train", f"presets/{preset}")
    options = options_for(tmp_path, data_dirs[UNET.presets[preset].kind], preset)
    workflow = ConfigWorkflow(config_file=files, workflow_type="train", logging_file=False, **options)
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.slow
def test_two_processes_have_one_average(ct_dir: Path, tmp_path: Path) -> None:
    """Also of the statistics of batch normalisation, which processors do not share."""
    files = config_paths(UNET, "train", "presets/robust_volumes", "multi_gpu_train")
    options = options_for(tmp_path, ct_dir, "robust_volumes", epochs=1, batch_size=2)
    first, second = train_in_two(files, tmp_path, "$@average.network", **options)
    assert first["weights"] == second["weights"] and first["metrics"] == second["metrics"]
    assert len(first["samples"]) == len(second["samples"]) == 4


def test_flips_are_the_mean_by_hand() -> None:
    torch.manual_seed(0)
    network, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(2, 2, 8, 6)
    with torch.no_grad():
        by_hand = torch.stack([network(x.flip(axes)).flip(axes) for axes in ((), (2,), (3,), (2, 3))]).mean(dim=0)
        torch.testing.assert_close(FlipInferer(SimpleInferer())(x, network), by_hand)
        assert not torch.allclose(by_hand, network(x))
        left_right = torch.stack([network(x), network(x.flip(2)).flip(2)]).mean(dim=0)
        torch.testing.assert_close(flipped(SimpleInferer(), "horizontal")(x, network), left_right)
        torch.testing.assert_close(flipped(SimpleInferer(), "true")(x, network), by_hand)
        torch.testing.assert_close(flipped(SimpleInferer(), False)(x, network), network(x))
        memory = torch.empty(2, 3, 8, 6)  # all logits come in it, as from a TensorRT engine
        torch.testing.assert_close(FlipInferer(SimpleInferer())(x, lambda x: memory.copy_(network(x))), by_hand)
        volume = torch.randn(1, 2, 8, 6, 3)
        slices = FlipInferer(SliceInferer(spatial_dim=2, roi_size=(8, 6), sw_batch_size=2))(volume, network)
        alone = [FlipInferer(SimpleInferer())(volume[..., z], network) for z in range(3)]
        torch.testing.assert_close(slices, torch.stack(alone, dim=-1))


def test_flips_change_nothing_where_the_network_follows_them() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Tanh(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(4, 2, 1))
    windows = SlidingWindowInferer((16, 16), 2, 0.5, mode="gaussian")
    x = torch.randn(1, 1, 40, 37)
    with torch.no_grad():
        torch.testing.assert_close(FlipInferer(windows)(x, network), windows(x, copy.deepcopy(network)))


def test_classes_come_from_the_data_or_the_training(ct_dir: Path, tmp_path: Path) -> None:
    assert count_classes(str(ct_dir)) == 9
    (tmp_path / "dataset.json").write_text(json.dumps({"training": []}))
    with pytest.raises(UserError, match=r"names no classes .*give --out_channels"):
        count_classes(str(tmp_path))
    with pytest.raises(UserError, match=r"has no model\.json beside it .*give --out_channels"):
        trained_classes(tmp_path / "model.pt")
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UserError, match=r"model\.json does not say how many classes .*give --out_channels"):
        trained_classes(tmp_path / "model.pt")
