"""Command line: ``python -m scripts.zoo pack|verify|push``."""

from scripts import command_line
from scripts.zoo.pack import pack
from scripts.zoo.push import push
from scripts.zoo.verify import verify

if __name__ == "__main__":
    command_line.run({"pack": pack, "verify": verify, "push": push}, "zoo")
