"""The two protocols of scores, which ``networks.workflow.scores`` explains; nothing here needs more than Python."""

from collections.abc import Mapping
from typing import Any

from networks.errors import UserError

PROTOCOLS = ("strict", "paper")
TOLERANCE = 2.0
"""Distance within which the normalised surface Dice takes two surfaces for the same, in mm or pixels."""


def check_protocol(protocol: str) -> None:
    """Raise UserError for a protocol that does not exist."""
    if protocol not in PROTOCOLS:
        raise UserError(f"The protocol {protocol!r} is unknown; choose {' or '.join(PROTOCOLS)}.")


def told_flips(scored: Mapping[str, Any]) -> str:
    """What a record or an evaluation says of flips at test time, to stand behind its protocol; empty without them."""
    tta = scored.get("tta")
    return f" with --tta {str(tta).lower()}" if tta else ""
