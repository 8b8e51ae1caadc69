"""The code that a packed bundle carries, and how its configs reach it."""

from pathlib import Path

import pytest

from scripts.zoo import packed_configs
from scripts.zoo.carried import carry, follow, rename_imports
from tests.packing import repository
from tests.workflows import ROOT


def test_imports_are_followed_and_renamed() -> None:
    assert "networks.layers.window_attention" in follow(ROOT, ["networks.swin_unet"])
    followed = follow(ROOT, ["networks.workflow"])
    assert "networks" not in followed and "networks.workflow.checkpoints" in followed
    text = "def f():\n    from networks.layers.swin import (\n        Mlp,\n    )\n    return 'networks'\n"
    assert rename_imports(text, "p1", "x.py") == text.replace("from networks", "from p1")
    with pytest.raises(ValueError, match=r"x\.py, line 1: write 'from networks"):
        rename_imports("import networks.layers\n", "p1", "x.py")
    with pytest.raises(ValueError, match=r"networks\.Missing"):
        carry(ROOT, "b", "0.1.0", {"Missing"}, set())


def test_names_of_code_differ_with_the_code(tmp_path: Path) -> None:
    """Also when somebody forgot to raise the version."""
    root = repository(tmp_path)
    first = carry(root, "b", "0.1.0", {"SwinUnet"}, set()).package
    assert carry(root, "b", "0.1.0", {"SwinUnet"}, set()).package == first
    with (root / "networks" / "layers" / "swin.py").open("a") as file:
        file.write("# changed\n")
    assert carry(root, "b", "0.1.0", {"SwinUnet"}, set()).package != first


def test_expressions_reach_modules_through_ids() -> None:
    content = {
        "imports": ["$import os", "$import networks.workflow as workflow"],
        "bundle_root": ".",
        "a": "$workflow.f(@x::y, 'workflow') if @workflow_like else [w for w in workflow.g()]",
        "b": {"_target_": "networks.workflow.Thing", "c": {"_target_": "networks.Net"}},
    }
    names, modules = packed_configs.used_by([content])
    assert (names, modules) == ({"Net"}, {"networks.workflow"})
    packed = packed_configs.pack_config(content, "p", packed_configs.module_ids([content]))
    assert packed["a"] == "$@workflow.f(@x::y, 'workflow') if @workflow_like else [w for w in @workflow.g()]"
    assert packed["b"] == {"_target_": "$@workflow.Thing", "c": {"_target_": "$@code.Net"}}
    with pytest.raises(ValueError, match="'code' is needed"):
        packed_configs.pack_config({"bundle_root": ".", "code": 1}, "p", {})
