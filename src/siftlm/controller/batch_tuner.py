"""Many prompts at once: each learns from its own texts with an adapter of its own, all on one frozen base."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from siftlm.controller.forward import BatchBudget, autocast, batch_budget, batches, text_likelihoods, token_nats_of
from siftlm.controller.generation import BatchDecoder, Generated, generate
from siftlm.controller.restore import training_mode
from siftlm.controller.settings import SamplingParams, Tuning, stop_strings
from siftlm.controller.stacked import AdapterStack, refuse_unstackable
from siftlm.controller.tokens import IGNORE_INDEX, Window, text_to_score
from siftlm.controller.tuner import DIVERGENCE_CHECK_TOKENS, AfterSteps, MeasureRuns, Tuner, TuningBatch, TuningRun
from siftlm.errors import InvalidInput, setting
from siftlm.types import Likelihood, Step, Trace
from siftlm.validation import whole_number

if TYPE_CHECKING:
    from siftlm.controller.controller import Controller


class BatchTuner:
    """A controller while it is tuned for many prompts; `Controller.tuning_many` makes one.

    Prompts are known by their place, from 0. The controller itself stays the base model all the while.
    """

    def __init__(self, controller: Controller, stack: AdapterStack, rules: Tuner) -> None:
        self._controller, self._stack, self._rules = controller, stack, rules
        self._budget = batch_budget(stack.weights.device, controller.vocabulary, stack.total)
        self.settings = rules.settings

    def __len__(self) -> int:
        return len(self._stack.weights)

    def learn(
        self,
        texts: Sequence[Sequence[str]],
        *,
        watch: MeasureRuns | None = None,
        after: AfterSteps | None = None,
    ) -> list[Trace]:
        """`Tuner.learn` for every prompt: one step on each of its texts, in order.

        Args:
            texts: those of each prompt, in the order of the prompts.
            watch: prompts -> for each a value that must not get worse, infinite where nothing is watched.
            after: called with the steps that were taken together, prompt -> step.

        The budget ``seconds`` runs for all prompts from the beginning of this call; ``tokens`` is each prompt's own.
        """
        if isinstance(texts, str) or any(isinstance(own, str) for own in texts):
            raise InvalidInput(f"{setting('texts')} must be a list of texts for each prompt, so a list of lists")
        if len(texts) != len(self):
            raise InvalidInput(
                f"{setting('texts')} must have an entry for each of {len(self)} prompts, got {len(texts)}"
            )
        if watch is not None and not callable(watch):
            raise InvalidInput(f"{setting('watch')} must be a function of prompts, got {watch!r:.60}")
        runs = [_new_run(self._rules, owner, own, watch is not None) for owner, own in enumerate(texts)]
        with training_mode(self._controller.model, 0.0, self.settings.checkpointing):
            weights = StackedAdapters(self._stack, self._rules, self._budget)
            batch = TuningBatch(weights, watch or unwatched, after)
            batch.join(runs)
            while len(batch):
                batch.round()
        return [self.trace(run) for run in runs]

    # --- for a server: prompts come and go

    def tuning_batch(
        self, settings: Tuning, after: AfterSteps | None = None, watch: MeasureRuns | None = None
    ) -> TuningBatch:
        """Prompts that are tuned with these settings, joining and leaving; see `tuning_run`."""
        weights = StackedAdapters(self._stack, self.rules(settings), self._budget)
        return TuningBatch(weights, watch or unwatched, after)

    def tuning_run(self, owner: int, settings: Tuning, texts: Sequence[str], *, watched: bool = False) -> TuningRun:
        """One prompt that is tuned on these texts from the base model on, for `TuningBatch.join`."""
        self._owners([owner], 1, "prompts")
        self._stack.begin(owner)
        return _new_run(self.rules(settings), owner, texts, watched)

    def rewind(self, owner: int) -> None:
        """Forget what one prompt has learned."""
        self._stack.begin(owner)

    def rules(self, settings: Tuning) -> Tuner:
        """The tuner that plans the steps of these settings."""
        refuse_unstackable(settings)
        return Tuner(self._controller, settings)

    def trace(self, run: TuningRun) -> Trace:
        """The record of a run that has ended."""
        return run.trace(self._stack.engine.description)

    def decoder(self) -> BatchDecoder:
        """Prompts that are continued token by token, joining and leaving."""
        return BatchDecoder(self._controller.model, self._budget, self._stack)

    def weights(self, owner: int) -> Any:
        """A copy of what one prompt has learned, for `load_weights`."""
        return self._stack.export_weights(owner)

    def load_weights(self, owner: int, weights: Any) -> None:
        """Set what one prompt has learned; None: nothing."""
        if weights is None:
            self._stack.begin(owner)
        else:
            self._stack.load_weights(owner, weights)

    # --- all at once

    def likelihoods(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        owners: Sequence[int] | None = None,
        texts: Sequence[Sequence[str]] | None = None,
    ) -> list[Likelihood]:
        """`Controller.likelihoods` of many (text, after), each by the model as one prompt has tuned it.

        Args:
            pairs: what is scored, and what comes before it.
            owners: the prompt whose adapter scores each; left out, pair i belongs to prompt i.
            texts: for each pair, those that are put before it.
        """
        whose = self._owners(owners, len(pairs), "pairs")
        controller, contexts = self._controller, self._contexts(texts, len(pairs), "pairs")
        scored = [
            text_to_score(
                controller.tokenizer,
                text,
                after,
                controller.context,
                start=controller.start_token,
                fixed=context,
                rows=controller.vocabulary,
            )
            for (text, after), context in zip(pairs, contexts, strict=True)
        ]

        def rows(places: Sequence[int]) -> AbstractContextManager[Any]:
            return self._stack.rows([whose[place] for place in places])

        return controller.evaluating(lambda: text_likelihoods(controller.model, scored, self._budget, rows))

    def generate(
        self,
        prompts: Sequence[str],
        *,
        owners: Sequence[int] | None = None,
        max_new_tokens: int = 100,
        texts: Sequence[Sequence[str]] | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: str | Sequence[str] = (),
        seed: int = 0,
    ) -> list[Generated]:
        """`Controller.generate` for many prompts, each continued by its own model, with what it would make alone.

        Args:
            prompts: what to continue.
            owners: the prompt whose adapter continues each; left out, the text i belongs to prompt i.
            max_new_tokens: the longest continuation.
            texts: for each, those that are put before it.
            temperature, top_p, stop: as in `Controller.generate`.
            seed: that of every row.
        """
        whose = self._owners(owners, len(prompts), "prompts")
        contexts = self._contexts(texts, len(prompts), "prompts")
        sampling = SamplingParams(max_new_tokens, temperature, top_p, stop_strings(stop), seed)
        controller, decoder = self._controller, self.decoder()
        return controller.evaluating(lambda: generate(controller, decoder, prompts, contexts, whose, sampling))

    def rows(self, owners: Sequence[int]) -> AbstractContextManager[Any]:
        """Inside, row i of what the controller's model is given is read as prompt ``owners[i]`` has tuned it."""
        return self._stack.rows(self._owners(owners, len(owners), "rows"))

    def save_adapter(self, prompt: int, folder: str | os.PathLike[str]) -> Path:
        """One prompt's adapter as it is now, in PEFT's format, for transformers, vLLM and others."""
        (owner,) = self._owners([prompt], 1, "prompts")
        return self._stack.save(owner, folder, self._controller.name)

    # --- inside

    def _owners(self, owners: Sequence[int] | None, count: int, what: str) -> list[int]:
        numbers = list(range(len(self))) if owners is None else [int(owner) for owner in owners]
        if len(numbers) != count:
            reason = "owners= says whose each is" if owners is None else f"{len(numbers)} owners"
            raise InvalidInput(f"{count} {what} for {len(numbers)} prompts: {reason}")
        for owner in numbers:
            whole_number("each of owners", owner, least=0, most=len(self) - 1)
        return numbers

    def _contexts(self, texts: Sequence[Sequence[str]] | None, count: int, what: str) -> list[list[int]]:
        """The tokens that are put before each."""
        if texts is None:
            return [[] for _ in range(count)]
        if len(texts) != count:
            raise InvalidInput(f"{setting('texts')} must have an entry for each of {count} {what}, got {len(texts)}")
        return [self._controller.context_of(own) if own else [] for own in texts]


def unwatched(owners: Sequence[int]) -> list[float]:
    """Nothing is watched for these prompts."""
    return [math.inf] * len(owners)


def _new_run(rules: Tuner, owner: int, texts: Sequence[str], watched: bool = False) -> TuningRun:
    return TuningRun(rules.settings, rules.highest_loss, rules.planned_steps(texts), watched, owner)


class StackedAdapters:
    """The weights of `TuningBatch`: an adapter for each prompt; runs of similar length share a pass."""

    def __init__(self, stack: AdapterStack, rules: Tuner, budget: BatchBudget) -> None:
        self._stack, self._rules, self._budget = stack, rules, budget
        self._settings = rules.settings
        self._best: torch.Tensor | None = None
        self._gradients = torch.empty_like(stack.weights) if rules.settings.reuse > 1 else None

    def batches(self, runs: Sequence[TuningRun]) -> list[list[TuningRun]]:
        fresh = [run for run in runs if not run.next[0].reuse]
        reusing = [run for run in runs if run.next[0].reuse]
        cut = batches([len(run.next[1].ids) - 1 for run in fresh], self._budget)
        return [[fresh[place] for place in batch] for batch in cut] + ([reusing] if reusing else [])

    def step(self, runs: Sequence[TuningRun]) -> list[Step]:
        owners = [run.owner for run in runs]
        reused = runs[0].next[0].reuse and self._gradients is not None
        gradients = self._gradients[owners] if reused and self._gradients is not None else self._compute(runs)
        steps = []
        for run in runs:
            planned, window = run.next
            rate = float(self._settings.rate or 0.0) * planned.scale
            steps.append(Step(planned.text, run.gradient[0], window.learned, run.gradient[1], rate, reused=reused))
        finite = [place for place, run in enumerate(runs) if all(math.isfinite(number) for number in run.gradient)]
        self._stack.update([(owners[place], gradients[place], steps[place].rate) for place in finite], self._settings)
        return steps

    def last_losses(self, runs: Sequence[TuningRun]) -> list[float]:
        losses = [0.0] * len(runs)
        checked = [place for place, run in enumerate(runs) if run.steps and not run.watched]
        windows = {
            place: runs[place].planned[len(runs[place].steps) - 1][1].beginning(DIVERGENCE_CHECK_TOKENS)
            for place in checked
        }
        self._rules.model.eval()
        with torch.inference_mode():
            for batch in batches([len(windows[place].ids) - 1 for place in checked], self._budget):
                places = [checked[at] for at in batch]
                with self._apply_adapters([runs[place].owner for place in places]):
                    found = self._losses([windows[place] for place in places]).tolist()
                for place, loss in zip(places, found, strict=True):
                    losses[place] = loss
        finite = self._stack.finite([run.owner for run in runs])
        return [loss if fine else math.nan for loss, fine in zip(losses, finite, strict=True)]

    def keep(self, run: TuningRun) -> None:
        if self._best is None:
            self._best = torch.empty_like(self._stack.weights)
        self._best[run.owner] = self._stack.weights[run.owner]

    def take_best(self, run: TuningRun) -> None:
        if self._best is not None:
            self._stack.weights[run.owner] = self._best[run.owner]

    def rewind(self, run: TuningRun) -> None:
        self._stack.rewind(run.owner)

    # --- inside

    def _compute(self, runs: Sequence[TuningRun]) -> torch.Tensor:
        """(rows, total) gradients, clipped; their losses and norms are left in `TuningRun.gradient`."""
        owners = [run.owner for run in runs]
        with torch.inference_mode(False), torch.enable_grad(), self._apply_adapters(owners) as weights:
            losses = self._losses([run.next[1] for run in runs])
            (gradients,) = torch.autograd.grad(losses.sum(), weights)
        norms = gradients.norm(dim=1)
        if self._settings.clip is not None:
            gradients.mul_((self._settings.clip / (norms + 1e-6)).clamp(max=1.0)[:, None])
        if self._gradients is not None:
            self._gradients[owners] = gradients
        for run, (loss, norm) in zip(runs, torch.stack([losses.detach(), norms], dim=1).tolist(), strict=True):
            run.gradient = loss, norm
        return gradients

    def _losses(self, windows: Sequence[Window]) -> torch.Tensor:
        """(rows,) mean nats of the tokens that each learns."""
        device = self._stack.weights.device
        width = max(len(window.ids) for window in windows) - 1
        # Padding on the right: no token of a causal model sees what comes after it.
        ids = torch.tensor([_right_padded(window.ids[:-1], width, 0) for window in windows], device=device)
        labels = torch.tensor(
            [_right_padded(window.labels[1:], width, IGNORE_INDEX) for window in windows], device=device
        )
        learned = torch.tensor([float(window.learned) for window in windows], device=device)
        with autocast(device.type, self._settings.precision):
            logits = self._rules.model(input_ids=ids, use_cache=False).logits
        return token_nats_of(logits, labels).sum(dim=1) / learned

    def _apply_adapters(self, owners: Sequence[int]) -> AbstractContextManager[Any]:
        precision = self._settings.precision
        return self._stack.rows(owners, kind=None if precision == "float32" else getattr(torch, precision))


def _right_padded(ids: Sequence[int], width: int, filling: int) -> list[int]:
    return [*ids, *[filling] * (width - len(ids))]
