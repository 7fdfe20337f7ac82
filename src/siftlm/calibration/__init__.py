"""Which settings make the best local model of this controller and this memory: measured, not guessed."""

from siftlm.calibration.calibrate import calibrate
from siftlm.calibration.evidence import Calibration

__all__ = ["Calibration", "calibrate"]
