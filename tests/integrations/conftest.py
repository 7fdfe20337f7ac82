"""Test files whose optional libraries are missing are not collected; nothing is imported to find that out."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import pytest

collect_ignore: list[str] = []
if not find_spec("torch"):
    collect_ignore += ["test_active_examples.py", "test_data_loader.py"]
if not all(map(find_spec, ("accelerate", "torch", "transformers"))):
    collect_ignore += ["test_trainer.py"]
if not all(map(find_spec, ("lm_eval", "peft", "torch"))):
    collect_ignore += ["test_lm_eval.py", "test_lm_eval_served.py"]
elif not all(map(find_spec, ("fastapi", "prometheus_client", "uvicorn"))):
    collect_ignore += ["test_lm_eval_served.py"]


@pytest.fixture(scope="session")
def lm_eval() -> None:
    """The harness is imported once, without the warnings of its own dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lm_eval.models.huggingface
        import lm_eval.tasks  # noqa: F401
