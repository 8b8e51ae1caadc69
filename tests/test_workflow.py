"""The parts of networks.workflow one by one."""

from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, MetaTensor
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import (
    CastToTyped,
    Compose,
    EnsureChannelFirstd,
    LoadImage,
    LoadImaged,
    RandShiftIntensityd,
    SaveImaged,
)
from PIL import Image

from networks.errors import UserError
from networks.workflow import (
    AutocastInferer,
    CaseDataset,
    EpochSeed,
    LoadCased,
    PictureReader,
    Plateau,
    SliceDataset,
    balanced_weights,
    check_cases,
    check_dataset,
    class_names,
    load_datalist,
)
from networks.workflow import training as training_module
from networks.workflow.arguments import check_command_line
from networks.workflow.checks import check_intervals
from networks.workflow.errors import hide_noise
from networks.workflow.evaluation import overlay, write_csv
from networks.workflow.saving import complete_writers
from tests.tables import rows_of

LOAD = [LoadImaged(("image", "label"), image_only=True), EnsureChannelFirstd(("image", "label"))]


@pytest.mark.parametrize("cache_rate", [1.0, 0.5, 0.0])
def test_slices_are_every_axial_slice_once(ct_dir: Path, cache_rate: float) -> None:
    pairs = load_datalist(str(ct_dir))["training"]
    dataset = SliceDataset(pairs, Compose(LOAD), cache_rate=cache_rate)
    volumes = [np.asarray(nib.load(pair["image"]).dataobj) for pair in pairs]
    assert len(dataset) == sum(volume.shape[2] for volume in volumes)
    expected = [volume[..., z] for volume in volumes for z in range(volume.shape[2])]
    for item, slice_ in zip([dataset[i] for i in range(len(dataset))], expected, strict=True):
        assert item["image"].shape == item["label"].shape == (1, *slice_.shape)
        np.testing.assert_array_equal(item["image"][0], slice_)
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_slices_on_disk_are_removed_and_never_changed(ct_dir: Path, tmp_path: Path) -> None:
    pairs = load_datalist(str(ct_dir))["training"]
    dataset = SliceDataset(pairs, Compose(LOAD), cache_rate=0, cache_dir=str(tmp_path))
    before = dataset[0]["image"].clone()
    dataset[0]["image"].add_(1)
    torch.testing.assert_close(dataset[0]["image"], before)
    assert list(tmp_path.rglob("*.npy"))
    del dataset
    assert not list(tmp_path.iterdir())


def test_slices_take_random_transforms_per_slice(ct_dir: Path) -> None:
    pairs = load_datalist(str(ct_dir))["training"]
    dataset = SliceDataset(pairs, Compose([*LOAD, RandShiftIntensityd("image", offsets=1000.0, prob=1.0)]))
    first, again = dataset[0]["image"], dataset[0]["image"]
    assert not torch.equal(first, again)
    dataset.set_random_state(3)
    seeded = dataset[0]["image"]
    dataset.set_random_state(3)
    assert torch.equal(dataset[0]["image"], seeded)


def test_slices_refuse_nonsense(ct_dir: Path) -> None:
    with pytest.raises(ValueError, match="empty"):
        SliceDataset([], Compose(LOAD))
    with pytest.raises(ValueError, match="cache_rate is 2"):
        SliceDataset(load_datalist(str(ct_dir))["training"], Compose(LOAD), cache_rate=2)


def test_epoch_seed_depends_on_the_epoch_alone(ct_dir: Path) -> None:
    transform = Compose([*LOAD, RandShiftIntensityd("image", offsets=1000.0, prob=1.0)])
    dataset = SliceDataset(load_datalist(str(ct_dir))["training"], transform)
    loader = DataLoader(dataset, batch_size=2, shuffle=True)
    seed = EpochSeed(0, loader)

    def epoch(number: int) -> torch.Tensor:
        seed(SimpleNamespace(state=SimpleNamespace(epoch=number)))
        return torch.cat([batch["image"].as_subclass(torch.Tensor) for batch in loader])

    first, second = epoch(1), epoch(2)
    assert not torch.equal(first, second)
    assert torch.equal(epoch(2), second)
    assert torch.equal(epoch(1), first)


def test_check_dataset_counts_cases(ct_dir: Path) -> None:
    assert check_dataset(str(ct_dir), 1, 9) == {"training": 3, "validation": 2, "test": 2}


@pytest.mark.parametrize("reader", ["PILReader", PictureReader(3)], ids=["MONAI", "ours"])
def test_check_cases_accepts_pictures(reader: str | PictureReader, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.ones((6, 8), np.uint8)).save(tmp_path / "label.png")
    pair = {"image": str(tmp_path / "image.png"), "label": str(tmp_path / "label.png")}
    check_cases([pair], 3, 2, reader)
    Image.fromarray(np.ones((6, 8, 3), np.uint8)).save(tmp_path / "label.png")
    with pytest.raises(UserError, match="3 channels; expected one channel of class numbers"):
        check_cases([pair], 3, 2, reader)


def test_class_names(ct_dir: Path, tmp_path: Path) -> None:
    assert class_names(str(ct_dir), 9)[:2] == ["background", "aorta"]
    assert class_names(str(tmp_path), 3) == ["background", "class 1", "class 2"]


def test_csv_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    write_csv(path, [{"a": 1}])
    with pytest.raises((AttributeError, TypeError)):
        write_csv(path, [{"a": 2}, None])  # type: ignore[list-item]
    assert path.read_text().split() == ["a", "1"]


def test_plateau_lowers_the_rate_then_stops() -> None:
    """Best in epoch 2; patience 3: lower after epoch 5, stop after epoch 8."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    evaluator = SimpleNamespace(state=SimpleNamespace(best_metric_epoch=0))
    trainer = Engine(lambda engine, batch: None)
    rates = []

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        evaluator.state.best_metric_epoch = min(engine.state.epoch, 2)

    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    Plateau(optimizer, constant, evaluator, patience=3, second_learning_rate=0.01).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: rates.append(optimizer.param_groups[0]["lr"]))
    trainer.run([0], max_epochs=20)
    assert rates == [0.1] * 4 + [0.01] * 4
    cosine = WarmupCosineSchedule(optimizer, warmup_steps=1, t_total=9)
    with pytest.raises(UserError, match=r"WarmupCosineSchedule sets the .*second_learning_rate=0\.01 would be undone"):
        Plateau(optimizer, cosine, evaluator, patience=3, second_learning_rate=0.01)
    Plateau(optimizer, cosine, evaluator, patience=3)


def test_balanced_weights(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0, 0], [0, 0, 1]], np.uint8)).save(tmp_path / "label.png")
    pair = {"image": str(tmp_path / "label.png"), "label": str(tmp_path / "label.png")}
    load = LoadCased(reader=PictureReader(1), out_channels=3)
    weights = balanced_weights(CaseDataset([pair], Compose([load]), repeats=2))
    torch.testing.assert_close(weights, torch.tensor([1.2, 6.0, 0.0]) / 2.4)


@pytest.mark.parametrize(("writer", "suffix"), [("NibabelWriter", ".nii.gz"), ("PILWriter", ".png"), (None, ".nii")])
def test_runs_leave_no_half_written_file(writer: str | None, suffix: str, tmp_path: Path, monkeypatch) -> None:
    shape = (1, 4, 6) if suffix == ".png" else (1, 4, 6, 2)
    image = MetaTensor(torch.ones(shape), affine=torch.eye(4), meta={"filename_or_obj": "case.png"})
    options = {"separate_folder": False, "resample": False, "print_log": False, "writer": writer}
    saved = SaveImaged("pred", output_dir=tmp_path, output_ext=suffix, **options)
    transforms = Compose([Compose([CastToTyped("pred", torch.uint8), saved])])
    for _ in range(2):  # as often as a run is started
        complete_writers(transforms)
    transforms({"pred": image})
    assert [path.name for path in tmp_path.iterdir()] == [f"case_trans{suffix}"]
    (tmp_path / f"case_trans{suffix}").write_text("previous")

    def fail(self: object, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        saved({"pred": image})
    assert (tmp_path / f"case_trans{suffix}").read_text() == "previous"


def test_bfloat16_where_the_processor_has_it(monkeypatch) -> None:
    network, x = torch.nn.Linear(4, 4), torch.rand(2, 4)
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    for fast, amp in ((True, True), (True, False), (False, True)):
        monkeypatch.setattr(training_module, "has_fast_bfloat16", lambda fast=fast: fast)
        assert AutocastInferer(amp)(x, network).dtype == torch.float32
    assert seen == [torch.bfloat16, torch.float32, torch.float32]


@pytest.mark.parametrize(("times", "fast"), [((2.0, 1.0), True), ((1.0, 2.0), False), ((1.0, 0.95), False)])
def test_bfloat16_only_where_it_is_measured_to_be_faster(times, fast: bool, monkeypatch) -> None:
    seconds = dict(zip((torch.float32, torch.bfloat16), times, strict=True))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(training_module, "_seconds_of_products", seconds.__getitem__)
    assert training_module.has_fast_bfloat16.__wrapped__() is fast
    monkeypatch.undo()
    assert training_module._seconds_of_products(torch.bfloat16) > 0


def test_networks_get_no_metadata() -> None:
    network, seen = torch.nn.Identity(), []
    network.register_forward_hook(lambda module, inputs, output: seen.append(type(inputs[0])))
    AutocastInferer(amp="false")(MetaTensor(torch.rand(2, 4)), network)
    assert seen == [torch.Tensor]


def test_overlay_shows_the_slice_with_most_foreground() -> None:
    label, image = torch.zeros(1, 5, 7, 3), torch.zeros(1, 5, 7, 3)
    label[0, 2:4, 3:5, 1] = 1
    picture = overlay(image, label, label, 2)
    assert picture.shape == (3, 7, 10)
    assert picture[:, :, :5].sum() > 0
    torch.testing.assert_close(picture[..., :5], picture[..., 5:])


def test_unknown_command_line_keys() -> None:
    config = "bundles/swin_unet/configs/train.json"
    program = "monai/bundle/__main__.py"
    both = f"['{config}', 'bundles/swin_unet/configs/evaluate.json']"
    check_command_line([program, "run", "--config_file", both, "--epochs", "3", "--split=training"])
    check_command_line([program, "run", f"--config_file={config}", "--train::trainer::max_epochs", "3"])
    with pytest.raises(ValueError, match="--split is not an id"):
        check_command_line([program, "run", "--config_file", config, "--split", "test"])
    check_command_line(["pytest", "--config_file", config, "--nonsense", "3"])


def test_engines_without_validation_state(tmp_path: Path) -> None:
    """A trainer that was never validated logs its loss alone."""
    from networks.workflow import EpochLog

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    evaluator = Engine(lambda engine, batch: None)
    trainer = Engine(lambda engine, batch: [{"loss": torch.tensor(2.0)}])
    EpochLog(str(tmp_path / "metrics.csv"), optimizer, evaluator, ["background", "a"]).attach(trainer)
    trainer.run([0, 1], max_epochs=2)
    rows = rows_of(tmp_path / "metrics.csv")
    assert rows == [{"epoch": str(e), "loss": "2.0000", "learning_rate": "0.5"} for e in (1, 2)]


@pytest.mark.parametrize("scores", [None, [[0.25, 0.75]], [[0.5]]])
def test_a_key_metric_of_the_users_own(scores: list | None, tmp_path: Path, caplog) -> None:
    """Of one without scores of the classes, or of another number of them, the log has the mean alone."""
    from networks.workflow import EpochLog

    state = {"epoch": 1, "best_metric_epoch": 1, "key_metric_name": "val_iou", "metrics": {"val_iou": 0.5}}
    details = {} if scores is None else {"val_iou": torch.tensor(scores)}
    evaluator = Engine(lambda engine, batch: None)
    for name, value in {**state, "metric_details": details}.items():
        setattr(evaluator.state, name, value)
    trainer = Engine(lambda engine, batch: [{"loss": torch.tensor(2.0)}])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    EpochLog(str(tmp_path / "metrics.csv"), optimizer, evaluator, ["background", "a"]).attach(trainer)
    with caplog.at_level("INFO"):
        trainer.run([0], max_epochs=1)
    (row,) = rows_of(tmp_path / "metrics.csv")
    assert row["val_iou"] == "0.5000" and row.get("a") == ("0.5000" if scores == [[0.5]] else None)
    assert "val_iou 0.5000 on the validation split, the best so far" in caplog.text


@pytest.mark.parametrize(("val_interval", "said"), [(5, ""), (4, "The last 2 of 10 epochs are not validated")])
def test_epochs_without_validation_are_told(val_interval: int, said: str, caplog) -> None:
    check_intervals(10, val_interval)
    assert said in caplog.text and bool(said) == bool(caplog.records)


def test_a_run_says_nothing_of_what_nobody_can_change(caplog, recwarn) -> None:
    hide_noise()
    LoadImage()
    Compose([]).inverse({})
    assert not caplog.records
    assert not recwarn.list
