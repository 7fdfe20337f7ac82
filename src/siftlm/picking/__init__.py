"""Training sets out of large pools: the records that together tell most about the targets."""

from siftlm.picking.pick import Picks, pick

__all__ = ["Picks", "pick"]
