"""Make trained networks smaller and faster: ``python -m scripts.compress quantize|...``."""

from scripts import command_line

STOPPED = "OUTPUT is whole or not usable yet: remove it, and the same command starts anew."


@command_line.when_stopped(STOPPED)
def quantize(
    output: str,
    bundle: str | None = None,
    trained: str | None = None,
    ckpt_path: str | None = None,
    bits: int = 4,
    group_size: int = 64,
    layers: str = "all",
    edge_bits: int = 8,
) -> None:
    """Round the weights of a trained network to few bits, packed in the file and in memory; nothing is trained.

    OUTPUT is a bundle of its own, which scripts.predict, MONAI and scripts.zoo pack take like any other.

    Args:
        output: folder of the compressed bundle, whose name is the bundle's.
        bundle: name of a bundle, or the folder of a compressed one.
        trained: name of weights that come with the bundles, instead of ``bundle``.
        ckpt_path: weights of ``bundle`` with their record beside them; its ``models/model.pt`` by default.
        bits: of a weight: 8, 4, 2 or 1.
        group_size: largest number of weights that share a scale; every row is cut into equal groups.
        layers: all, attention, or a regular expression of the layers' names.
        edge_bits: with ``layers all``, bits of the first layer and of the head, if that is more.
    """
    from scripts.compress import quantize

    quantize.quantize(output, bundle, trained, ckpt_path, bits, group_size, layers, edge_bits)


COMMANDS = {"quantize": quantize}

if __name__ == "__main__":
    command_line.run(COMMANDS, "python -m scripts.compress")
