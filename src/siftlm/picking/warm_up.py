"""The warm-up of LESS (Xia et al., 2024): a model learns a small share of the pool, and checkpoints of it are kept."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siftlm import validation
from siftlm.embedding import embedder
from siftlm.embedding.models import LESS_FILE
from siftlm.embedding.protocol import Embedder
from siftlm.errors import BadRecord, Conflict, InvalidInput, setting
from siftlm.extras import TINY_MODEL, load
from siftlm.memory.reading.fields import UnusableRecord
from siftlm.picking.pools import fetch, open_pool
from siftlm.picking.records import record_text, text_fields
from siftlm.progress import Meter, Report, reporter

if TYPE_CHECKING:
    from siftlm.controller import Controller
    from siftlm.embedding.less import Checkpoint

# Published: 5 % of the pool, four passes with a checkpoint after each, a rate that falls in a line.
DEFAULT_FRACTION, DEFAULT_PASSES = 0.05, 4


def warm_up(
    model: str | os.PathLike[str],
    pool: Any,
    into: str | os.PathLike[str],
    *,
    fraction: float = DEFAULT_FRACTION,
    passes: int = DEFAULT_PASSES,
    text: str | list[str] | None = None,
    rank: int | None = None,
    alpha: float | None = None,
    targets: Any = None,
    device: str | None = None,
    seed: int = 0,
    progress: bool | Report | None = None,
    **tuning: Any,
) -> Embedder:
    """Train adapters on a random share of a pool, and keep them after each pass for LESS's features.

    Returns the embedder ``less:FOLDER``, for ``siftlm.pick(embedder=…)``. The model itself is not changed.

    Args:
        model: a name on the Hugging Face hub, a folder, or ``siftlm-tiny``.
        pool: whatever `siftlm.pick` takes.
        into: a folder for the checkpoints, new or empty.
        fraction: of the pool's records, drawn at random.
        passes: over them, one step of Adam on each text; a checkpoint after each.
        text: the field, or fields, of a record's text, as in `siftlm.pick`.
        rank, alpha, targets: of LoRA, as in `siftlm.Controller`.
        device: CUDA, if there is one, unless named.
        seed: of the draw, of the order and of the adapters' first weights.
        progress: as in `siftlm.pick`.
        **tuning: of `siftlm.Tuning`: ``rate`` is the one at the beginning, which falls to zero in a line; each pass has
            its mean in that pass.
    """
    fraction = validation.number("fraction", fraction, above=0, most=1)
    passes, seed = validation.whole_number("passes", passes), validation.whole_number("seed", seed, least=0)
    folder = _empty_folder(into)
    fields = text_fields("text", text)
    texts = _drawn_texts(pool, fraction, fields, seed)
    load("transformers", "tune")
    from siftlm.controller import Controller

    name = str(model) if str(model) == TINY_MODEL or not Path(model).is_dir() else str(Path(model).resolve())
    controller = Controller(
        name, engine="lora", rank=rank, alpha=alpha, targets=targets, device=device, dtype="float32", seed=seed
    )
    settings = controller.tuning_settings(**tuning)
    if settings.passes != 1:
        raise Conflict(f"{setting('passes')} of the warm-up counts the checkpoints too")
    folder.mkdir(parents=True, exist_ok=True)
    _train(controller, texts, folder, passes, seed, reporter(progress), tuning)
    return embedder(f"less:{folder}", **({} if device is None else {"device": device}))


def _empty_folder(into: str | os.PathLike[str]) -> Path:
    folder = Path(into).expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"{setting('into')}: {str(folder)!r} is a file, not a folder")
    if (folder / LESS_FILE).exists():
        raise Conflict(f"{str(folder)!r} holds a warm-up already: open it as embedder 'less:{folder}', or name another")
    if folder.is_dir() and any(not one.name.startswith("checkpoint-") for one in folder.iterdir()):
        raise Conflict(f"{setting('into')}: the folder {str(folder)!r} is not empty")
    return folder


def _drawn_texts(pool: Any, fraction: float, fields: Any, seed: int) -> list[str]:
    """The texts of a random share of a pool, at least one."""
    source = open_pool("pool", pool)
    count = sum(len(block.records) for block in source.blocks())
    if not count:
        raise InvalidInput(f"{source.name}: holds no record")
    drawn = np.random.default_rng(seed).choice(count, max(1, round(fraction * count)), replace=False)
    records, places = fetch(source, drawn.astype(np.int64))
    return [_text_to_learn(record, fields, place) for record, place in zip(records, places, strict=True)]


def _text_to_learn(record: Any, fields: Any, place: str) -> str:
    try:
        return record_text(record, fields)
    except UnusableRecord as error:
        raise BadRecord(f"{place}: the model cannot learn from this record: {error}") from error


def _train(
    controller: Controller,
    texts: list[str],
    folder: Path,
    passes: int,
    seed: int,
    report: Report | None,
    tuning: dict[str, Any],
) -> None:
    """One pass after the other; the description of the whole is written last."""
    from siftlm.embedding.less import WarmUp, checkpoint_file
    from siftlm.embedding.loading import weights_digest

    weights, order = weights_digest(controller.model), np.random.default_rng([seed, 1])
    meter = Meter("warming up", "steps", report, total=passes * len(texts))
    rates, steps, digests = [], [], []
    paths = {id(module): name for name, module in controller.model.named_modules()}
    engine: Any = controller.engine  # adapters, as `warm_up` asked for
    with controller.tuning(**tuning) as tuner:
        settings, first = tuner.settings, float(tuner.settings.rate or 0.0)
        layers = [(paths[id(plain)], adapted) for _, plain, adapted in engine.adapted_layers()]
        for at in range(passes):
            rate = first * (1 - (at + 0.5) / passes)
            tuner.settings = replace(settings, rate=rate)
            trace = tuner.learn([texts[one] for one in order.permutation(len(texts))], after=lambda _: meter.add(1))
            if trace.ended == "diverged" or not trace.steps:
                why = "its loss is that of a model that has diverged: pass a smaller rate"
                why = why if trace.steps else "none of its texts has two tokens"
                raise InvalidInput(f"the warm-up failed in pass {at + 1}: {why} (the rate was {rate:g})")
            kept = _checkpoint(controller, layers)
            digests.append(kept.write(checkpoint_file(folder, at)))
            rates.append(rate)
            steps.append(engine.adam.moments().steps)
        meter.finish()
        scale = float(next(iter(layers[0][1].scaling.values())))
    names = tuple(name for name, _ in layers)
    betas, epsilon = (float(settings.betas[0]), float(settings.betas[1])), float(settings.epsilon)
    made = WarmUp(controller.name, weights, names, scale, betas, epsilon, tuple(rates), tuple(steps), tuple(digests))
    made.write(folder)


def _checkpoint(controller: Controller, layers: list[tuple[str, Any]]) -> Checkpoint:
    """The adapters and moments as they are now."""
    import torch

    from siftlm.controller.adapters import ADAPTER_NAME
    from siftlm.embedding.less import Checkpoint

    places = {id(p): at for at, p in enumerate(controller.engine.parameters)}
    moments = controller.engine.adam.moments()
    a = {name: module.lora_A[ADAPTER_NAME].weight for name, module in layers}
    b = {name: module.lora_B[ADAPTER_NAME].weight for name, module in layers}
    ordered = [places[id(p)] for name, _ in layers for p in (a[name], b[name])]
    first, second = (
        torch.cat([kept[at].detach().reshape(-1) for at in ordered]) for kept in (moments.first, moments.second)
    )
    return Checkpoint(a, b, first, second)
