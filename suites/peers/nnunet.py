"""nnU-Net v2 on a data set of this project's form, in its 2D configuration, for a given time on a processor.

Planner, preprocessing, augmentation, network, loss, optimiser and inference are nnU-Net's own; only the length of the
training is not: it is cut to the given time, the learning rate's decay included. The planner fills the memory that it
is told of, by default that of a graphics card, with so many images at once that a processor does few steps in the time;
``--planner_gb 0.1`` is its own option for less. Needs ``pip install nnunetv2``:
python suites/peers/nnunet.py DATASET_DIR OUTPUT_DIR --seconds 900 --planner_gb 0.1
"""

import json
import os
import shutil
import time
from pathlib import Path

import fire
import torch

ID, NAME = 900, "Dataset900_Peer"
EPOCHS = 20


def raw_data(root: Path, folder: Path) -> dict[str, list[str]]:
    """nnU-Net's folders, as links, and the names of the lists."""
    content = json.loads((root / "dataset.json").read_text())
    names: dict[str, list[str]] = {"training": [], "validation": []}
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for part in names:
        for case in content[part]:
            name = Path(case["image"]).name.removesuffix(".nii.gz")
            (folder / "imagesTr" / f"{name}_0000.nii.gz").symlink_to((root / case["image"]).resolve())
            (folder / "labelsTr" / f"{name}.nii.gz").symlink_to((root / case["label"]).resolve())
            names[part].append(name)
    description = {
        "channel_names": content["modality"],
        "labels": {name: int(number) for number, name in content["labels"].items()},
        "numTraining": sum(len(cases) for cases in names.values()),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return names


def main(
    dataset_dir: str, output_dir: str, seconds: float = 900, work_dir: str = "", seed: int = 0, planner_gb: float = 8
) -> None:
    root, output = Path(dataset_dir), Path(output_dir)
    work = Path(work_dir or f"{output}_work").resolve()
    os.environ |= {f"nnUNet_{part}": str(work / part) for part in ("raw", "preprocessed", "results")}
    os.environ |= {"nnUNet_n_proc_DA": "1"}
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.run.run_training import get_trainer_from_args

    names = raw_data(root, work / "raw" / NAME)
    api.extract_fingerprints([ID], num_processes=1)
    _, identifier = api.plan_experiment_dataset(ID, gpu_memory_target_in_gb=planner_gb)
    api.preprocess([ID], identifier, configurations=("2d",), num_processes=(1,))
    preprocessed = work / "preprocessed" / NAME
    (preprocessed / "splits_final.json").write_text(
        json.dumps([{"train": names["training"], "val": names["validation"]}])
    )

    torch.manual_seed(seed)
    trainer = get_trainer_from_args(NAME, "2d", 0, plans_identifier=identifier, device=torch.device("cpu"))
    trainer.num_epochs, trainer.num_val_iterations_per_epoch = EPOCHS, 1
    trainer.on_train_start()
    trainer.train_step(next(trainer.dataloader_train))  # the first is slower
    moments = [time.time()]
    trainer.train_step(next(trainer.dataloader_train))
    moments.append(time.time())
    with torch.no_grad():
        trainer.validation_step(next(trainer.dataloader_val))
    step, validation = moments[1] - moments[0], time.time() - moments[1]
    trainer.num_epochs = trainer.lr_scheduler.max_steps = max(1, min(EPOCHS, int(seconds / (step + validation))))
    trainer.num_iterations_per_epoch = max(1, round((seconds / trainer.num_epochs - validation) / step))
    steps = trainer.num_epochs * trainer.num_iterations_per_epoch
    print(f"{steps} steps of {trainer.batch_size} slices, {step:.1f} s each", flush=True)
    trainer.on_train_start = lambda: None
    trainer.run_training()

    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        "nnUNetTrainer",
        trainer.inference_allowed_mirroring_axes,
    )
    trainer.set_deep_supervision_enabled(False)
    images, targets = [], []
    for case in json.loads((root / "dataset.json").read_text())["test"]:
        path = Path(case["image"] if isinstance(case, dict) else case)
        images.append([str(root / path)])
        targets.append(str(output / path.with_name(path.name.replace(".nii.gz", "_seg"))))
        Path(targets[-1]).parent.mkdir(parents=True, exist_ok=True)
    predictor.predict_from_files_sequential(images, targets)


if __name__ == "__main__":
    fire.Fire(main)
