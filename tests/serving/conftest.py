"""Test files whose optional libraries are missing are not collected; nothing is imported to find that out."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
# Files that need nothing, and files that tune a model.
LIGHT = {"test_auth.py", "test_face.py"}
TUNING = {
    "test_app_engine.py",
    "test_fuzz.py",
    "test_guarded.py",
    "test_loading.py",
    "test_modes.py",
    "test_scheduler.py",
    "test_searchable.py",
    "test_server.py",
    "test_vllm.py",
}
collect_ignore: list[str] = []
if not all(map(find_spec, ("fastapi", "prometheus_client", "torch", "uvicorn"))):
    collect_ignore += sorted({path.name for path in HERE.glob("test_*.py")} - LIGHT)
if not find_spec("peft"):
    collect_ignore += sorted(TUNING)
