"""A causal language model that can learn from texts, score and generate, and forget."""

from __future__ import annotations

import copy
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from siftlm.controller.adapters import DEFAULT_RANK, Adapters, lora
from siftlm.controller.batch_tuner import BatchTuner
from siftlm.controller.engines import Engine, FullWeights, normal_tensors
from siftlm.controller.forward import batch_budget, hidden_states, text_likelihoods
from siftlm.controller.generation import BatchDecoder, Generated, generate
from siftlm.controller.loading import open_model
from siftlm.controller.restore import (
    RANDOM_STATE_LOCK,
    PendingRestores,
    UninterruptibleContext,
    preserved_model,
    restoring,
    seeded_random_state,
)
from siftlm.controller.settings import SamplingParams, Tuning, rate_for, stop_strings
from siftlm.controller.stacked import AdapterStack, can_stack, refuse_unstackable
from siftlm.controller.tokens import prefix_token_ids, start_token, text_to_score, text_token_ids
from siftlm.controller.tuner import Tuner
from siftlm.errors import Conflict, InvalidInput, SiftlmError, UnknownName, setting
from siftlm.types import Likelihood, Vectors
from siftlm.validation import list_of_texts, number, whole_number

Result = TypeVar("Result")

ENGINES = ("auto", "full", "lora")
# From so many parameters on, ``auto`` takes adapters: a copy and two moments of every weight cost too much memory.
LORA_MIN_PARAMETERS = 1_000_000_000
# Numbers of each tensor that make the fingerprint.
FINGERPRINT_NUMBERS = 1000


class Controller:
    """A language model and what is needed to tune it for one prompt and restore it.

    Args:
        model: a name on the Hugging Face hub, a folder, a GGUF file, ``siftlm-tiny``, or a transformers model (with
            ``tokenizer``).
        tokenizer: of a model that is loaded already.
        engine: ``full`` tunes all weights, ``lora`` adapters on all linear layers, a PEFT config any other adapter;
            ``auto`` is ``full`` below a billion parameters.
        rank, alpha, targets: of ``lora``.
        device: left out, CUDA if there is one.
        dtype: of the weights; float32 unless said otherwise.
        context: read at most so many tokens at once; left out, what the model was made for.
        **settings: see `Tuning`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        engine: Any = "auto",
        rank: int | None = None,
        alpha: float | None = None,
        targets: Any = None,
        device: str | None = None,
        dtype: str | None = None,
        context: int | None = None,
        **settings: Any,
    ) -> None:
        self.settings = Tuning().with_(settings)
        if isinstance(engine, str) and engine not in ENGINES:
            raise UnknownName("engine", engine, ENGINES, is_setting=True)
        if not isinstance(engine, str) and not hasattr(engine, "peft_type"):
            raise InvalidInput(
                f"{setting('engine')} must be one of {', '.join(ENGINES)}, or a config of PEFT, got {engine!r:.60}"
            )
        if rank is not None:
            whole_number("rank", rank)
        if alpha is not None:
            number("alpha", alpha, above=0)
        if targets is not None and not isinstance(targets, str):
            targets = list_of_texts("targets", targets)
        if engine != "lora" and not (rank is None and alpha is None and targets is None):
            raise Conflict(
                f"{setting('rank')}, {setting('alpha')} and {setting('targets')} are settings of "
                f"{setting('engine', 'lora')}, not of {setting('engine', engine)}"
            )
        with normal_tensors():
            loaded = open_model(model, tokenizer, device=device, dtype=dtype, context=context)
        self.name, self.model, self.tokenizer = loaded.name, loaded.model, loaded.tokenizer
        self.context = loaded.context
        self.start_token, self.prefix_tokens = start_token(self.tokenizer), prefix_token_ids(self.tokenizer)
        """The token before a text that is scored, and those before every text that is learned or continued."""
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.vocabulary = int(self.model.get_output_embeddings().weight.shape[0])
        self.budget = batch_budget(next(self.model.parameters()).device, self.vocabulary)
        if engine == "auto":
            engine = "full" if self.parameters < LORA_MIN_PARAMETERS else "lora"
        self.adapters = not isinstance(engine, str) or engine == "lora"
        """Does it tune adapters?"""
        self._engine_choice = (engine, rank, alpha, targets)
        self._engine: Engine | None = None
        self._lock = threading.RLock()
        self._tuner: Tuner | None = None
        self._many = False
        self._pending = PendingRestores()

    @property
    def engine(self) -> Engine:
        """The engine that tunes; made when it is first needed."""
        with self._lock:
            if self._engine is None:
                _ = self.fingerprint  # adapters will change what there is to be read
                with normal_tensors():
                    self._engine = self._make_engine()
            return self._engine

    def _make_engine(self) -> Engine:
        if any(p.is_inference() for p in self.model.parameters()):
            raise InvalidInput("the model was made inside torch.inference_mode(), so it cannot learn: make it outside")
        kind, rank, alpha, targets = self._engine_choice
        if kind == "full":
            return FullWeights(self.model)
        if kind == "lora":
            kind = lora(self.model, rank=DEFAULT_RANK if rank is None else rank, alpha=alpha, targets=targets)
        return Adapters(self.model, kind, seed=self.settings.seed)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of some weights of each tensor: a model that was trained on has changed in all of them."""
        return self.current_fingerprint()

    def current_fingerprint(self) -> str:
        """`fingerprint` of the weights as they are now; inside `tuning` it is another one."""
        digest = hashlib.blake2b(digest_size=8)
        for name, tensor in self.model.state_dict().items():
            flat = tensor.detach().reshape(-1)
            some = flat[:: max(1, len(flat) // FINGERPRINT_NUMBERS)]
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(some.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def tuning_settings(self, **changes: Any) -> Tuning:
        """The settings with changes, and a rate that suits the model if none was chosen."""
        settings = self.settings.with_(changes)
        if settings.rate is None:
            settings = settings.with_({"rate": rate_for(self.parameters, self.adapters)})
        return settings

    @restoring
    def tuning(self, **changes: Any) -> Iterator[Tuner]:
        """Inside the block the model may learn; at its end, however it ends, it is restored bit for bit.

        Other threads wait. The weights, buffers and modes are those of the beginning afterwards. Nothing is drawn from
        torch's random state, which all threads share, unless there is dropout or checkpointing (`Tuning.draws`); then
        that is restored as well, and such blocks of all models in a process take turns.
        """
        settings = self.tuning_settings(**changes)
        turn = RANDOM_STATE_LOCK if settings.draws else nullcontext()
        with turn, self._lock, UninterruptibleContext(self._changed(settings)) as tuner:
            yield tuner

    @contextmanager
    def _changed(self, settings: Tuning) -> Iterator[Tuner]:
        if self._tuner is not None or self._many:
            raise Conflict("the model is being tuned already: leave that block before entering another")
        self._pending.finish()
        engine = self.engine
        seed, model, pending = settings.seed, self.model, self._pending
        drawn = seeded_random_state(seed, model, pending) if settings.draws else nullcontext()
        with drawn, preserved_model(self.model, self._pending) as weights:
            tuner = Tuner(self, settings)
            weights.append(engine.end)
            try:
                engine.begin(tuner.settings)
                self.model.eval()
                self._tuner = tuner
                yield tuner
            finally:
                self._tuner = None

    @restoring
    def tuning_many(self, count: int, **changes: Any) -> Iterator[BatchTuner]:
        """`tuning` for ``count`` prompts at once, each with an adapter of its own; for LoRA.

        Results are those of one prompt at a time, up to rounding: to six digits in float32; in bfloat16 (see
        `Tuning.precision`) products are rounded as their batch is cut, so losses differ in the third. Dropout and
        ``compile`` are not to be had here, so nothing is drawn from torch's random state, which other threads may use.
        """
        settings = self.tuning_settings(**changes)
        whole_number("count", count)
        refuse_unstackable(settings)
        with self._lock, UninterruptibleContext(self._changed_for_many(count, settings)) as tuner:
            yield tuner

    def can_tune_many(self, settings: Tuning) -> bool:
        """Can `tuning_many` do this with these settings and this engine?"""
        return can_stack(self.engine, settings)

    @contextmanager
    def _changed_for_many(self, count: int, settings: Tuning) -> Iterator[BatchTuner]:
        if self._tuner is not None or self._many:
            raise Conflict("the model is being tuned already: leave that block before entering another")
        self._pending.finish()
        with preserved_model(self.model, self._pending):
            rules = Tuner(self, settings)
            stack = AdapterStack(self.engine, count, rules.settings)
            for p in self.model.parameters():
                p.requires_grad_(False)
            try:
                self._many = True
                self.model.eval()
                with stack.attached():
                    yield BatchTuner(self, stack, rules)
            finally:
                self._many = False

    def likelihood(self, text: str, *, after: str = "", texts: Sequence[str] = ()) -> Likelihood:
        """How well the model predicts ``text``, as it is now.

        Args:
            text: every token of it is scored, in consecutive windows if it is longer than the context.
            after: what comes before it; read and not scored.
            texts: put before both, the first ones first, as many as fit into half of the context.
        """
        return self.likelihoods([(text, after)], texts=texts)[0]

    def likelihoods(self, pairs: Sequence[tuple[str, str]], *, texts: Sequence[str] = ()) -> list[Likelihood]:
        """`likelihood` for many (text, after), in few forward passes."""
        given: Any = pairs
        if not isinstance(given, (list, tuple)) or any(
            not isinstance(one, (tuple, list)) or len(one) != 2 for one in given
        ):
            raise InvalidInput(f"{setting('pairs')} must be a list of pairs (text, after), got {given!r:.60}")
        fixed = self.context_of(texts) if not isinstance(texts, (tuple, list)) or texts else []
        scored = [
            text_to_score(
                self.tokenizer, text, after, self.context, start=self.start_token, fixed=fixed, rows=self.vocabulary
            )
            for text, after in pairs
        ]
        return self.evaluating(lambda: text_likelihoods(self.model, scored, self.budget))

    def context_of(self, texts: Sequence[str], room: int | None = None) -> list[int]:
        """The texts as tokens to be put before a prompt: the first ones stay where not all fit into ``room``."""
        texts = list_of_texts("texts", texts)
        room = self.context // 2 if room is None else room
        ids = [] if self.start_token is None else [self.start_token]
        gap = text_token_ids(self.tokenizer, "\n\n")
        for text in dict.fromkeys(texts):  # the second time a text tells nothing new in a context
            ids.extend([*text_token_ids(self.tokenizer, text, self.vocabulary), *gap])
            if len(ids) >= room:
                break
        return ids[: max(room, 1)]

    def generate(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 100,
        texts: Sequence[str] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: str | Sequence[str] = (),
        seed: int = 0,
    ) -> Generated:
        """Continue the prompt, as the model is now.

        Args:
            prompt: its beginning is left out where it is too long.
            max_new_tokens: the longest continuation.
            texts: put before the prompt, as many as fit into half of the context.
            temperature: 0 takes the likeliest token each time; 1 draws as the model says.
            top_p: draw among the likeliest tokens that together have this probability.
            stop: end before any of these texts.
            seed: of the drawing. The random state of the caller stays as it is.
        """
        sampling = SamplingParams(max_new_tokens, temperature, top_p, stop_strings(stop), seed)
        context = self.context_of(texts) if not isinstance(texts, (tuple, list)) or texts else []
        decoder = BatchDecoder(self.model, self.budget)
        return self.evaluating(lambda: generate(self, decoder, [prompt], [context], [0], sampling)[0])

    def generate_many(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 100,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: str | Sequence[str] = (),
        seed: int = 0,
    ) -> list[Generated]:
        """`generate` for many prompts, token by token together; each is continued as it would be alone."""
        prompts = list_of_texts("prompts", prompts)
        sampling = SamplingParams(max_new_tokens, temperature, top_p, stop_strings(stop), seed)
        decoder = BatchDecoder(self.model, self.budget)
        many = len(prompts)
        return self.evaluating(lambda: generate(self, decoder, prompts, [[]] * many, [0] * many, sampling))

    def hidden_states(self, texts: Sequence[str], layer: int = -1) -> Vectors:
        """(tokens, d) what the model holds of each token of the texts, as it is now, in their order.

        Args:
            texts: each is read for itself, in consecutive pieces if it is longer than the context.
            layer: 0 the embeddings, 1 the output of the first layer, −1 (the default) that of the last.
        """
        texts = list_of_texts("texts", texts)
        start = [] if self.start_token is None else [self.start_token]
        room = self.context - len(start)
        pieces = []
        for text in texts:
            ids = text_token_ids(self.tokenizer, text, self.vocabulary)
            pieces += [[*start, *ids[at : at + room]] for at in range(0, len(ids), room)]
        return self.evaluating(lambda: hidden_states(self.model, pieces, layer, len(start), self.budget))

    def copy(self) -> Controller:
        """A controller of its own, with a copy of the weights as they are now, and the same settings.

        One that is made while adapters are tuned keeps these, and scores and generates; it cannot learn more.
        """
        engine, rank, alpha, targets = self._engine_choice
        with self._lock:
            model = copy.deepcopy(self.model)
        made = Controller(
            model, self.tokenizer, engine=engine, rank=rank, alpha=alpha, targets=targets, context=self.context
        )
        made.name, made.settings = self.name, self.settings
        return made

    def save_adapter(self, folder: str | os.PathLike[str]) -> Path:
        """Inside `tuning`: the adapter as it is now, in PEFT's format, for transformers, vLLM and others.

        The base model is recorded by the name it was opened with. ``siftlm-tiny`` is none of the Hugging Face hub's, so
        there the base is named when the adapter is loaded:

            from siftlm.extras import bundled_model
            base = transformers.AutoModelForCausalLM.from_pretrained(bundled_model()).float()
            model = peft.PeftModel.from_pretrained(base, folder)
        """
        if not isinstance(self.engine, Adapters):
            raise Conflict(f"all weights are tuned, so there is no adapter: pass {setting('engine', 'lora')}")
        with self._lock:  # another thread's block is not this one's
            if self._tuner is None:
                raise SiftlmError("the adapter is there while the model is tuned: call save_adapter inside the block")
            return self.engine.save(folder, self.name)

    def evaluating(self, work: Callable[[], Result]) -> Result:
        """Without dropout, and back to the modes that there were."""
        with self._lock:
            self._pending.finish()
            modes = [(module, module.training) for module in self.model.modules() if module.training]
            if not modes:
                return work()
            self.model.eval()
            try:
                return work()
            finally:
                for module, training in modes:
                    module.training = training

    def __repr__(self) -> str:
        return f"Controller({self.name!r}, {self.parameters:,} parameters, context of {self.context})"
