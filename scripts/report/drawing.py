"""Drawing predictions beside the truth."""

from pathlib import Path

import numpy as np
import torch
from monai.transforms import LoadImage, Orientation
from PIL import Image, ImageDraw

from networks.errors import UserError
from networks.workflow import class_names, labelled_list, load_datalist
from networks.workflow.data import VOLUME_SUFFIXES, Pair
from networks.workflow.evaluation import fullest_slice, overlay
from networks.workflow.files import atomic
from scripts.metrics.predictions import find_predictions

MARGIN = 24


def panel(
    dataset_dir: str,
    predictions: str,
    output: str,
    split: str = "test",
    cases: int = 4,
    window: tuple[float, float] | None = None,
) -> None:
    """Do what the command line of ``scripts.report.pictures`` describes, with the same arguments."""
    rows = []
    pairs = labelled_list(load_datalist(dataset_dir), split)[:cases]
    for pair, prediction in zip(pairs, find_predictions(predictions, pairs, dataset_dir), strict=True):
        grey, truth, found = read_case(pair, prediction, window)
        classes = max(len(class_names(dataset_dir)), int(max(truth.max(), found.max())) + 1)
        both = overlay(grey, truth, found, classes)
        plain = grey.transpose(1, 2).expand(3, -1, -1)
        rows.append(torch.cat([plain, both], dim=-1))
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
    with atomic(target) as temporary:
        picture.save(temporary)
    print(f"Wrote {target}.")


def read_case(
    pair: Pair, prediction: str | Path, window: tuple[float, float] | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What there is to draw of a case; of a volume, the axial slice with most foreground.

    Args:
        pair: image and label.
        prediction: label map on the label's grid.
        window: image values that become black and white; the image's own range by default.

    Returns:
        The image's first channel in 0..1, the truth's class numbers and the prediction's, (1, X, Y) each.

    Raises:
        UserError: their shapes differ.
    """
    image, truth, found = (_load(path) for path in (pair["image"], pair["label"], prediction))
    image = image[:1]
    if not image.shape == truth.shape == found.shape:
        raise UserError(
            f"{prediction} has shape {tuple(found.shape)}, but {pair['image']} has {tuple(image.shape)}; "
            "predict this data set again."
        )
    if image.ndim == 4:
        truth, image, found = fullest_slice(truth, image, found)
    black, white = window or (float(image.min()), float(image.max()))
    return ((image - black) / ((white - black) or 1)).clamp(0, 1), truth, found


def _load(path: str | Path) -> torch.Tensor:
    """Channels first; volumes in RAS."""
    volume = str(path).endswith(VOLUME_SUFFIXES)
    load = LoadImage(reader=None if volume else "PILReader", image_only=True, ensure_channel_first=True)
    image = load(str(path))
    return (Orientation("RAS", labels=None)(image) if volume else image).as_tensor()
