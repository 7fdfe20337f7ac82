"""How others tune a language model at test time, written anew after reading how they do it.

    tttlm_loop    the published loop over nearest neighbours: AdamW, one text a step, gradients clipped at 1, dropout,
                  the prompt scored before the first step and again after each
    peft_loop     what a careful user writes with PEFT: LoRA on all linear layers, fresh for each prompt, a text a step
    padded_loop   every text padded to the model's context, plain Adam; repeated texts reuse a gradient (HullFT)

Each takes a loaded transformers model and its tokenizer and returns a function of (texts, prompt) that tunes on the
texts, scores the prompt, puts the weights back, and says in a `Run` what that took. What is done once for many prompts
(copies of the weights, tttlm's optimiser) is done when the loop is made, and not timed.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# Linux: a 5 written here makes the most that was resident start again from now.
FORGET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass(frozen=True)
class Run:
    """One prompt, in seconds, nats and bytes."""

    losses: tuple[float, ...]
    """Mean nats a token of each step's text, before that step."""
    nats: tuple[float, ...]
    """Of the whole prompt, each time that it was scored."""
    steps: float
    evaluation: float
    reset: float
    """Everything that makes one prompt independent of the next."""
    peak: int
    """Bytes at most since the run began: allocated on the GPU, or resident in this process."""

    @property
    def total(self) -> float:
        return self.steps + self.evaluation + self.reset

    @property
    def step(self) -> float:
        return self.steps / max(1, len(self.losses))


Loop = Callable[[Sequence[str], str], Run]


class Stopwatch:
    """Seconds by name, after everything that was asked of the device is done."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: Counter[str] = Counter()
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif FORGET.exists():
            FORGET.write_text("5")
        self._at = self._now()

    def lap(self, name: str) -> None:
        now = self._now()
        self.seconds[name] += now - self._at
        self._at = now

    def run(self, losses: Sequence[float], nats: Sequence[float]) -> Run:
        taken = (self.seconds[name] for name in ("steps", "evaluation", "reset"))
        return Run(tuple(losses), tuple(nats), *taken, peak=self.peak())

    def peak(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        if STATUS.exists():
            line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
            return int(line.split()[1]) * 1024
        # Elsewhere since the process began, and that of the process that started it if it was larger.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


# --- tttlm


def tttlm_loop(
    model: Any,
    tokenizer: Any,
    *,
    rate: float = 2e-5,
    decay: float = 0.01,
    clip: float = 1.0,
    evaluate: bool = True,
    fresh: bool = False,
) -> Loop:
    """Weights are put back after a prompt; the moments go on to the next one, unless ``fresh``.

    Without ``evaluate`` the prompt is scored once, at the end. Long texts take one step for each window of the context.
    """
    device = next(model.parameters()).device
    context = context_of(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, eps=1e-8, weight_decay=decay)
    before = deepcopy(model.state_dict())

    def learn(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        model.train()
        losses = []
        for window in ids.split(context, dim=1):
            model.zero_grad()
            inputs = window.to(device)
            loss = model(inputs, labels=inputs.clone()).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimiser.step()
            losses.append(loss.item())
        return sum(losses) / max(1, len(losses))

    def prompt_of(texts: Sequence[str], prompt: str) -> Run:
        watch = Stopwatch(device)
        losses, nats = [], []
        if evaluate:
            nats.append(scored(model, tokenizer, prompt, context))
            watch.lap("evaluation")
        for text in texts:
            losses.append(learn(text))
            watch.lap("steps")
            if evaluate:
                nats.append(scored(model, tokenizer, prompt, context))
                watch.lap("evaluation")
        if not evaluate:
            nats.append(scored(model, tokenizer, prompt, context))
            watch.lap("evaluation")
        model.load_state_dict(before)
        if fresh:
            optimiser.state.clear()
        watch.lap("reset")
        return watch.run(losses, nats)

    return prompt_of


def scored(model: Any, tokenizer: Any, text: str, context: int) -> float:
    """Nats, window after window, from an end of text on; all logits go to the CPU, as in the evaluation harness."""
    device = next(model.parameters()).device
    model.eval()
    total = 0.0
    for inputs, targets in windows(tokenizer.encode(text, add_special_tokens=False), context, tokenizer.eos_token_id):
        with torch.no_grad():
            logits = model(torch.tensor([inputs], device=device)).logits
        likely = torch.log_softmax(logits.float(), dim=-1).cpu()[0, -len(targets) :]
        total -= float(likely.gather(1, torch.tensor(targets)[:, None]).sum())
    return total


def windows(ids: list[int], context: int, start: int) -> Iterator[tuple[list[int], list[int]]]:
    """What is read and what is predicted; the last window reaches back as far as the context goes."""
    stream = [start, *ids]
    for done in range(0, len(ids), context):
        end = min(done + context, len(ids))
        yield stream[max(0, end - context) : end], ids[done:end]


def context_of(model: Any) -> int:
    return int(model.config.max_position_embeddings)


# --- PEFT


def peft_loop(
    model: Any,
    tokenizer: Any,
    *,
    rate: float = 5e-4,
    rank: int = 16,
    decay: float = 0.0,
    clip: float | None = None,
    fused: bool | None = None,
    precision: str = "float32",
    rebuild: bool = False,
) -> Loop:
    """The adapter is put back to its first state for each prompt, or with ``rebuild`` made anew and taken out again.

    Texts are cut to the context. PEFT changes the model that it is given: hand over one of its own.
    """
    import peft

    device = next(model.parameters()).device
    context = context_of(model)
    conv = any(type(module).__name__ == "Conv1D" for module in model.modules())
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", fan_in_fan_out=conv, task_type="CAUSAL_LM"
    )
    kept = None if rebuild else peft.get_peft_model(model, config)
    first = {} if kept is None else {name: p.detach().clone() for name, p in kept.named_parameters() if p.requires_grad}

    def prompt_of(texts: Sequence[str], prompt: str) -> Run:
        watch = Stopwatch(device)
        tuned = peft.get_peft_model(model, config) if kept is None else kept
        trained = [(name, p) for name, p in tuned.named_parameters() if p.requires_grad]
        with torch.no_grad():
            for name, p in trained if first else ():
                p.copy_(first[name])
        optimiser = torch.optim.AdamW([p for _, p in trained], lr=rate, weight_decay=decay, fused=fused)
        watch.lap("reset")
        tuned.train()
        losses = []
        for text in texts:
            ids = tokenizer(
                text, return_tensors="pt", add_special_tokens=False, truncation=True, max_length=context
            ).input_ids.to(device)
            with casting(device, precision):
                loss = tuned(input_ids=ids, labels=ids).loss
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_([p for _, p in trained], clip)
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.detach())  # not .item(): a careful user does not make a GPU wait at every step
        watch.lap("steps")
        nats = scored(tuned, tokenizer, prompt, context)
        watch.lap("evaluation")
        if kept is None:
            tuned.unload()
            watch.lap("reset")
        return watch.run([float(loss) for loss in losses], [nats])

    return prompt_of


def casting(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


# --- padding


def padded_loop(model: Any, tokenizer: Any, *, rate: float = 5e-5, reuse: int = 1) -> Loop:
    """Texts that are there several times follow each other, and every ``reuse``-th step on one has a gradient of its
    own; the others take the last one again, each as a full step of Adam."""
    device = next(model.parameters()).device
    context = context_of(model)
    before = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token

    def prompt_of(texts: Sequence[str], prompt: str) -> Run:
        watch = Stopwatch(device)
        optimiser = torch.optim.Adam(model.parameters(), lr=rate, eps=1e-8)
        model.train()
        losses: list[Any] = []
        for text, count in Counter(texts).items():
            batch = tokenizer([text], padding="max_length", truncation=True, max_length=context, return_tensors="pt")
            ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
            labels = ids.masked_fill(mask == 0, -100)
            kept: list[Any] = []
            for turn in range(count):
                if turn % reuse:
                    for p, gradient in zip(model.parameters(), kept, strict=True):
                        p.grad = None if gradient is None else gradient.clone()
                    losses.append(losses[-1])
                else:
                    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
                    loss.backward()
                    losses.append(loss.detach())
                    if reuse > 1:
                        kept = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
                optimiser.step()
                optimiser.zero_grad()
        watch.lap("steps")
        nats = scored(model, tokenizer, prompt, context)
        watch.lap("evaluation")
        model.load_state_dict(before)
        watch.lap("reset")
        return watch.run([float(loss) for loss in losses], [nats])

    return prompt_of
