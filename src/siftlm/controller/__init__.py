"""A causal language model that can tune on texts, score, generate, and forget."""

from siftlm.controller.controller import Controller
from siftlm.controller.generation import Generated
from siftlm.controller.settings import Tuning
from siftlm.controller.tuner import Tuner

__all__ = ["Controller", "Generated", "Tuner", "Tuning"]
