"""Training sets out of large pools: the records that together tell most about the targets, reviews of a pool, and
what tuning on it brought in."""

from siftlm.picking.contrast import Contrast, contrast
from siftlm.picking.findings import Finding, Review
from siftlm.picking.pick import Picks, pick
from siftlm.picking.review import review
from siftlm.picking.warm_up import warm_up

__all__ = ["Contrast", "Finding", "Picks", "Review", "contrast", "pick", "review", "warm_up"]
