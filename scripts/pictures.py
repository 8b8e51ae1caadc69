"""Pictures of predictions beside the truth: ``python -m scripts.pictures DATASET_DIR PREDICTIONS OUTPUT.jpg``."""

from pathlib import Path

import fire
import numpy as np
import torch
from monai.networks import one_hot
from monai.transforms import LoadImage
from PIL import Image, ImageDraw

from networks.workflow import class_names, load_datalist
from networks.workflow.evaluation import overlay
from scripts.predictions import find_predictions

MARGIN = 24


def panel(
    dataset_dir: str,
    predictions: str,
    output: str,
    split: str = "test",
    cases: int = 4,
    window: tuple[float, float] | None = None,
) -> None:
    """One row per case: the image, the truth over it, the prediction over it.

    Args:
        dataset_dir: data set in the contract.
        predictions: folder that inference wrote for ``split``.
        output: PNG or JPEG file to write.
        split: list of ``dataset.json``.
        cases: rows at most.
        window: image values to draw as black and white, such as -160,240 for CT; the image's own range by default.
    """
    load = LoadImage(image_only=True, ensure_channel_first=True, reader=None)
    rows = []
    pairs = load_datalist(dataset_dir)[split][:cases]
    for pair, prediction in zip(pairs, find_predictions(predictions, pairs, dataset_dir), strict=True):
        image = load(pair["image"])
        truth, found = load(pair["label"]), load(prediction)
        classes = max(len(class_names(dataset_dir, 2)), int(max(truth.max(), found.max())) + 1)
        black, white = window or (float(image.min()), float(image.max()))
        grey = ((image[:1] - black) / max(white - black, 1)).clamp(0, 1)
        hot = [one_hot(torch.as_tensor(x)[None].float(), classes)[0] for x in (truth, found)]
        both = overlay(grey, *hot)
        plain = overlay(grey, torch.zeros_like(hot[0]).index_fill(0, torch.tensor(0), 1), hot[1])
        width = both.shape[-1] // 2
        rows.append(torch.cat([plain[..., :width], both], dim=-1))
    height, width = max(row.shape[1] for row in rows), max(row.shape[2] for row in rows)
    canvas = torch.ones(3, len(rows) * height, width)
    for i, row in enumerate(rows):
        canvas[:, i * height : i * height + row.shape[1], : row.shape[2]] = row
    picture = Image.new("RGB", (width, canvas.shape[1] + MARGIN), "white")
    picture.paste(Image.fromarray((canvas.permute(1, 2, 0).numpy() * 255).astype(np.uint8)), (0, MARGIN))
    draw = ImageDraw.Draw(picture)
    for i, title in enumerate(("image", "truth", "prediction")):
        draw.text((i * width // 3 + 6, 6), title, fill="black")
    target = Path(output)
    temporary = target.with_name(f".part-{target.name}")
    picture.save(temporary)
    temporary.replace(target)
    print(f"Wrote {target}.")


if __name__ == "__main__":
    fire.Fire(panel)
