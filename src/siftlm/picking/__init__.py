"""Training sets out of large pools: the records that together tell most about the targets, and reviews of a pool."""

from siftlm.picking.findings import Finding, Review
from siftlm.picking.pick import Picks, pick
from siftlm.picking.review import review

__all__ = ["Finding", "Picks", "Review", "pick", "review"]
