"""An exported archive runs alone: what MONAI Deploy reads of its config needs nothing but MONAI.

``docs/deployment.md`` has the application that the real SDK was tried with.
"""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export
from monai.data import MetaTensor
from monai.transforms import Compose

from scripts.catalog.bundles import BUNDLES, Bundle
from scripts.render.bundle import bundle_configs
from scripts.zoo.pack import assemble
from scripts.zoo.packed_configs import module_ids, pack_config
from tests.packing import BUNDLE, NAME

# what the SDK's MonaiBundleInferenceOperator asks the config for
PARTS = ("preprocessing", "postprocessing", "inferer", "device")


@pytest.mark.parametrize("bundle", [b for b in BUNDLES if b.default.volumes], ids=lambda bundle: bundle.name)
def test_parts_for_volumes_are_monais(bundle: Bundle) -> None:
    """In the bundle's default and in its presets, with code that cannot be found."""
    contents = bundle_configs(bundle)
    ids = module_ids(list(contents.values()))
    names = [f"presets/{name}_inference" for name, preset in bundle.presets.items() if preset.volumes]
    for name in ("", *names):
        content = pack_config(contents["inference"], "code_that_is_nowhere", ids)
        parser = ConfigParser()
        parser.read_config(content | (pack_config(contents[name], "code_that_is_nowhere", ids) if name else {}))
        for part in PARTS:
            assert parser.get_parsed_content(part) is not None


def test_archive_segments_alone(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the SDK does it: config from the archive, an image from memory, the label map back on its grid."""
    for path, content in assemble(BUNDLE, root=trained).files.items():
        (tmp_path / NAME / path).parent.mkdir(parents=True, exist_ok=True)
        data = content.read_bytes() if isinstance(content, Path) else content
        (tmp_path / NAME / path).write_bytes(data)
    configs, archive = tmp_path / NAME / "configs", tmp_path / "model.ts"
    ckpt_export(
        "network_def",
        filepath=str(archive),
        ckpt_file=str(tmp_path / NAME / "models" / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
    )
    (tmp_path / NAME).rename(tmp_path / "gone")
    for module in [name for name in sys.modules if name.startswith(f"{NAME}_v")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if str(tmp_path) not in path])
    parser = ConfigParser()
    with zipfile.ZipFile(archive) as content:
        parser.read_config(json.loads(content.read("model/extra/inference.json")))
    parts = {part: parser.get_parsed_content(part) for part in PARTS}
    before, after = (
        Compose(
            [t for t in parts[part].transforms if "Load" not in type(t).__name__ and "Save" not in type(t).__name__]
        )
        for part in PARTS[:2]
    )
    affine = np.diag([-1.5, -1.5, 3.0, 1.0])
    image = MetaTensor(torch.randint(-100, 200, (50, 60, 4)).float(), affine, {"original_channel_dim": "no_channel"})
    prepared = before({"image": image})
    with torch.no_grad():
        logits = parts["inferer"](prepared["image"][None].to(parts["device"]), torch.jit.load(archive).eval())
    label = after({**prepared, "pred": logits[0]})["pred"]
    assert label.shape == (1, 50, 60, 4) and np.allclose(label.affine, affine)
    assert not [name for name in sys.modules if name.startswith(f"{NAME}_v")]
