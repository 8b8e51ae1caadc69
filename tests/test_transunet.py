"""TransUNet's arguments."""

import pytest

from tests.small import build


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"width": 48}, r"width=48 .* multiple of 32"),
        ({"depths": (3, 4)}, r"depths=\(3, 4\) .* three numbers"),
        ({"decoder_channels": (8, 8)}, r"decoder_channels=\(8, 8\) .* five numbers"),
        ({"num_heads": 5}, r"num_heads=5 does not divide embed_dim=32"),
        ({"mlp_dim": 0}, r"mlp_dim=0 .* at least 1"),
        ({"drop_rate": 1.0}, r"drop_rate=1.0 .* below 1"),
    ],
)
def test_transunet_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build("TransUnet", **kwargs)
