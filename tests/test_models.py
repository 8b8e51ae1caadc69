"""The public list and the factory: every network by the name of its bundle, and nothing imported before its time."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import networks
import networks.workflow
from networks.errors import UserError
from scripts.catalog.bundles import BUNDLES

LIGHT = """
import json, sys
import networks, networks.errors, networks.workflow, networks.workflow.errors, networks.workflow.ids
dir(networks), networks.__all__
before = [name for name in ("torch", "monai", "timm") if name in sys.modules]
from networks import SwinUnet
after = [name for name in ("monai", "segmentation_models_pytorch") if name in sys.modules]
print(json.dumps([before, after]))
"""


def test_imports_bring_only_what_is_needed() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], []]


@pytest.mark.parametrize("package", [networks, networks.workflow], ids=lambda package: package.__name__)
def test_public_lists(package) -> None:
    assert list(package.PUBLIC) == sorted(package.PUBLIC) == package.__all__ == dir(package)
    assert all(getattr(package, name).__name__ == name for name in package.__all__)
    with pytest.raises(AttributeError, match=r"has no attribute 'Nothing'"):
        package.Nothing  # noqa: B018


def test_editors_see_the_public_list() -> None:
    tree = ast.parse(Path(networks.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module.partition(".")[2] for node in imports for alias in node.names if alias.asname}
    assert seen == networks.PUBLIC


def test_models_are_the_bundles() -> None:
    assert networks.list_models() == sorted(bundle.name for bundle in BUNDLES)
    for bundle in BUNDLES:
        network_class = getattr(networks, bundle.network)
        assert networks.NETWORKS[bundle.network] == bundle.name
        assert network_class.paper == bundle.paper.url


@pytest.mark.parametrize("name", networks.list_models())
def test_every_variant_can_be_built(name: str) -> None:
    for variant in [None, *networks.list_variants(name)]:
        with torch.device("meta"):
            network = networks.create_model(name, variant, in_channels=1, out_channels=5, img_size=128)
        assert networks.NETWORKS[type(network).__name__] == name and network.in_channels == 1


def test_weights_are_loaded(tmp_path: Path) -> None:
    small = dict(networks.SwinUnet.small)
    trained = networks.create_model("swin_unet", img_size=64, **small)
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    network = networks.create_model("swin_unet", "tiny", pretrained=tmp_path / "model.pt", img_size=64, **small)
    assert torch.equal(network.decoder.norm.weight, trained.decoder.norm.weight)
    assert torch.equal(network.encoder.patch_embed.proj.weight, trained.encoder.patch_embed.proj.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("swin_net",), r"no model 'swin_net'; did you mean swin_unet"),
        (("zzz",), r"no model 'zzz'; choose from attention_unet, .*unet_plusplus\."),
        (("hiformer", "s"), r"no variant of hiformer 's'; did you mean S\?"),
        (("unet", "resnet50"), r"no variant of unet 'resnet50'; choose from none"),
    ],
)
def test_unknown_names(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        networks.create_model(*arguments)
