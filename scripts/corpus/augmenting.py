"""Changed copies of training pictures, on disk: for programs that do not augment while they train, as ours do."""

import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from networks.errors import UserError
from networks.workflow.files import atomic
from scripts.corpus.index import Micrograph
from scripts.corpus.readers import corpus_beside
from scripts.corpus.sheets import Tile, write_sheet
from scripts.corpus.steps import Done, derived, names_of, read_cleaned, step

ROWS = 8  # pictures on the sheet, each with its copies
GREY = 2  # grey values by which the channels of a picture without colours may differ


def augment(source: str, output_dir: str, copies: int = 3, seed: int = 0, layout: str = "auto") -> None:
    """Do what the command line of this tool describes, with the same arguments.

    Raises:
        UserError: no pictures, no splits, an option out of range, or a folder of other settings.
        SystemExit: pictures could not be used.
    """
    if not 1 <= copies <= 100:
        raise UserError(f"--copies is {copies}; expected 1 to 100.")
    micrographs = corpus_beside(source, output_dir, layout)
    training = [micrograph for micrograph in micrographs if micrograph.split == "training"]
    if not training:
        raise UserError(
            f"{source} has no pictures in the split training; split first, so that no copy of a test picture is "
            "trained on."
        )
    names = names_of(micrographs)
    with step(output_dir, "augment", {"copies": copies, "seed": seed}) as work:

        def one(micrograph: Micrograph) -> Done:
            return _copies(micrograph, work.folder / names[micrograph.image], copies, seed), {}

        found = work.run(training, one, "Augmenting")
        tiles = []
        for micrograph, (results, _) in found[:ROWS]:
            tiles += [Tile(micrograph.image, micrograph.image.name)]
            tiles += [Tile(result.image) for result in results[:7]]
        write_sheet(work.folder / "sheet.png", tiles, "original and copies", columns=min(copies, 7) + 1)
        made = [result for _, (results, _) in found for result in results]
        print(f"{len(made)} copies of {len(found)} training pictures; those of other splits have none.")
        work.finish([*micrographs, *made])


def _copies(micrograph: Micrograph, stem: Path, copies: int, seed: int) -> list[Micrograph]:
    pixels = torch.from_numpy(read_cleaned(micrograph.image)).permute(2, 0, 1)
    change = _transforms(pixels)
    results = []
    for number in range(1, copies + 1):
        with torch.random.fork_rng(devices=[]):
            # of the picture alone, so that a step that goes on makes the same copies
            torch.manual_seed(zlib.crc32(f"{seed} {number} {stem.name} {micrograph.source}".encode()))
            changed = change(pixels).permute(1, 2, 0).numpy()
        target = stem.with_name(f"{stem.name}_a{number}.png")
        with atomic(target) as temporary:
            Image.fromarray(changed[..., 0] if changed.shape[2] == 1 else np.ascontiguousarray(changed)).save(temporary)
        results.append(derived(micrograph, target, more={**micrograph.more, "augmentation": str(number)}))
    return results


def _transforms(pixels: torch.Tensor) -> v2.Transform:
    """Those of CS-UNet's paper: flips, contrast, brightness, of coloured pictures hue and saturation too, noise."""
    coloured = pixels.shape[0] == 3 and int((pixels.amax(0).int() - pixels.amin(0).int()).max()) > GREY
    distortion = v2.ColorJitter(0.2, 0.25, 0.25, 0.03) if coloured else v2.ColorJitter(0.2, 0.25)
    noise = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), _GreyNoise(coloured), v2.ToDtype(torch.uint8, scale=True)]
    )
    return v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), distortion, v2.RandomApply([noise], 0.5)])


class _GreyNoise(torch.nn.Module):
    """Gaussian noise of a random strength, the same in all channels of a picture without colours."""

    def __init__(self, coloured: bool) -> None:
        super().__init__()
        self.coloured = coloured

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        noise = torch.randn_like(image if self.coloured else image[:1])
        return (image + 0.05 * torch.rand(()) * noise).clamp(0, 1)
