"""A U-Net of segmentation_models_pytorch in a plain loop, as one writes it on an afternoon: what a bundle has to beat.

Trains on the slices of a data set's volumes, predicts its test volumes, and writes label maps for ``scripts.metrics
score --predictions``. Nothing of ``networks`` is used: python suites/peers/smp_unet.py DATASET_DIR OUTPUT_DIR
"""

import json
import time
from pathlib import Path

import fire
import nibabel as nib
import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch.nn.functional import interpolate


def read(path: Path) -> np.ndarray:
    return np.moveaxis(np.asarray(nib.load(path).dataobj, dtype=np.float32), 2, 0)


def normalised(volume: np.ndarray, size: int) -> torch.Tensor:
    volume = (volume - volume.mean()) / (volume.std() + 1e-8)
    return interpolate(torch.from_numpy(volume)[:, None], (size, size), mode="bilinear", antialias=True)


def main(
    dataset_dir: str,
    output_dir: str,
    size: int = 64,
    slices: int = 10000,
    batch_size: int = 16,
    encoder: str = "tu-tf_efficientnet_lite0",
    seed: int = 0,
) -> None:
    torch.manual_seed(seed)
    root, output, start = Path(dataset_dir), Path(output_dir), time.time()
    content = json.loads((root / "dataset.json").read_text())
    images, labels = [], []
    for case in content["training"]:
        images.append(normalised(read(root / case["image"]), size))
        label = torch.from_numpy(read(root / case["label"]))[:, None]
        labels.append(interpolate(label, (size, size), mode="nearest")[:, 0].long())
    images, labels = torch.cat(images), torch.cat(labels)

    network = smp.Unet(encoder, encoder_weights=None, in_channels=1, classes=len(content["labels"]))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    steps = slices // batch_size
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    dice, cross_entropy = smp.losses.DiceLoss("multiclass"), torch.nn.CrossEntropyLoss()
    for step in range(steps):
        chosen = torch.randint(len(images), (batch_size,))
        logits = network(images[chosen])
        loss = dice(logits, labels[chosen]) + cross_entropy(logits, labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % 50 == 49:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}, {time.time() - start:.0f} s", flush=True)

    network.eval()
    for case in content["test"]:
        path = root / (case["image"] if isinstance(case, dict) else case)
        image, volume = nib.load(path), read(path)
        with torch.inference_mode():
            logits = interpolate(network(normalised(volume, size)), volume.shape[1:], mode="bilinear")
        target = output / path.relative_to(root).with_name(path.name.replace(".nii", "_seg.nii"))
        target.parent.mkdir(parents=True, exist_ok=True)
        label = np.moveaxis(logits.argmax(1).numpy().astype(np.uint8), 0, 2)
        nib.save(nib.Nifti1Image(label, image.affine), target)


if __name__ == "__main__":
    fire.Fire(main)
