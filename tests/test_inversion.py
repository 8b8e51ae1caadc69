"""Logits are brought back to their file's grid class by class, with the result of MONAI's transforms."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import AsDiscreted, Compose, Identityd, Invertd, Orientationd, Resized

from networks.workflow.inversion import LabelByClass, label_by_class


@pytest.mark.parametrize("keys", [["pred"], ["pred", "image"]])
def test_classes_one_by_one_give_the_label_map_of_all_together(keys):
    preprocessing = Compose([Orientationd("image", "RAS", labels=None), Resized("image", [6, 5, -1], mode="trilinear")])
    image = MetaTensor(torch.rand(1, 9, 11, 4), affine=np.diag([-1, 1, -2, 1.0]))
    item = preprocessing({"image": image})
    item["pred"] = MetaTensor(torch.randn(3, 6, 5, 4).round())  # with ties
    invert = Invertd(keys, preprocessing, ["image"] * len(keys), nearest_interp=False)
    plain, quick = (Compose([Compose([invert, AsDiscreted("pred", argmax=True)]), Identityd("pred")]) for _ in range(2))
    label_by_class(quick)
    assert [type(part) for part in quick.transforms[0].transforms] == [LabelByClass]
    expected, found = plain(dict(item)), quick(dict(item))
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key].as_tensor(), value.as_tensor(), rtol=0, atol=0)
        torch.testing.assert_close(found[key].affine, value.affine)
    assert found["pred"].shape == image.shape


def test_what_does_more_than_take_the_largest_class_is_left_alone():
    invert = Invertd("pred", Compose([Resized("image", [6, 5], mode="bilinear")]), "image")
    for discrete in (
        AsDiscreted("pred", argmax=True, to_onehot=3),
        AsDiscreted("pred", threshold=0.5),
        AsDiscreted("label", argmax=True),
        AsDiscreted("pred", argmax=True, dim=1),
    ):
        transforms = Compose([invert, discrete])
        label_by_class(transforms)
        assert transforms.transforms == (invert, discrete)
