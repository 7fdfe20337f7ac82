"""Which settings make the best local model of this controller and this memory: measured, not guessed."""

from siftlm.calibration.front import calibrate
from siftlm.calibration.result import Calibration

__all__ = ["Calibration", "calibrate"]
