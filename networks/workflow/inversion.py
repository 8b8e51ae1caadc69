"""Logits on the grid of their file, one class at a time.

All classes of a large scan on its own grid are gigabytes, several times over: nine of 512 x 512 x 300 voxels take 2.8.
"""

from collections.abc import Hashable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from monai.transforms import AsDiscreted, Compose, Invertd, Transform
from monai.utils.type_conversion import convert_to_dst_type
from torch import Tensor


class LabelByClass(Transform):
    """MONAI's ``Invertd`` and the ``AsDiscreted(argmax=True)`` after it, with the same result.

    Args:
        invert: with the logits among its keys.
        key: of the logits (classes, X, Y[, Z]).
    """

    def __init__(self, invert: Invertd, key: Hashable) -> None:
        self.key = key
        others = [other for other in invert.keys if other != key]
        self.logits, self.others = _only(invert, [key]), _only(invert, others) if others else None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with class numbers (1, X', Y'[, Z']) in float32 on the grid of the file."""
        d = dict(data)
        logits = d[self.key]

        def on_file(number: int) -> Any:
            return self.logits({**d, self.key: logits[number : number + 1]})[self.key]

        first = on_file(0)
        best = _plain(first).clone()
        label = torch.zeros_like(best, dtype=torch.float32)
        for number in range(1, len(logits)):
            values = _plain(on_file(number))
            label.masked_fill_(values > best, number)  # of equal ones the first, as argmax has it
            torch.maximum(best, values, out=best)
        d[self.key] = convert_to_dst_type(label, first, dtype=torch.float32)[0]
        return d if self.others is None else self.others(d)


def _plain(x: Any) -> Tensor:
    return torch.as_tensor(x).as_subclass(Tensor)


def label_by_class(postprocessing: Any) -> None:
    """Let every ``Invertd`` with an ``AsDiscreted(argmax=True)`` after it work class by class.

    Configs name MONAI's own transforms, so that programs that read nothing but those do without this package; a run
    calls this before it starts.

    Args:
        postprocessing: a transform, or a composition of any depth, that the run's evaluator was made with.
    """
    for part in _compositions(postprocessing):
        transforms = list(part.transforms)
        for invert, discrete in pairwise(part.transforms):
            if _is_argmax(discrete) and type(invert) is Invertd and discrete.keys[0] in invert.keys:
                place = transforms.index(invert)
                transforms[place : place + 2] = [LabelByClass(invert, discrete.keys[0])]
        part.transforms = tuple(transforms)


def _is_argmax(transform: Any) -> bool:
    """Whether a transform takes the largest class of one key, and does nothing else."""
    if type(transform) is not AsDiscreted or len(transform.keys) != 1 or transform.converter.kwargs:
        return False
    more = (*transform.to_onehot, *transform.threshold, *transform.rounding)
    return transform.argmax[0] and all(value is None for value in more)


def _only(invert: Invertd, keys: list[Hashable]) -> Invertd:
    """The same for some of the keys."""
    places = [invert.keys.index(key) for key in keys]
    names = ("orig_keys", "meta_keys", "orig_meta_keys", "meta_key_postfix", "nearest_interp", "to_tensor", "device")
    arguments: dict[str, Any] = {name: [getattr(invert, name)[i] for i in places] for name in (*names, "post_func")}
    return Invertd(keys, invert.transform, **arguments, allow_missing_keys=invert.allow_missing_keys)


def _compositions(transform: Any) -> Iterator[Compose]:
    if type(transform) is Compose:
        yield transform
    for part in getattr(transform, "transforms", ()):
        yield from _compositions(part)
