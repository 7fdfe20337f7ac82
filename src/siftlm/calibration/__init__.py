"""Calibration: the settings that make the best local model of a controller and a memory, measured on held-out texts."""

from siftlm.calibration.calibrate import calibrate
from siftlm.calibration.evidence import Calibration

__all__ = ["Calibration", "calibrate"]
