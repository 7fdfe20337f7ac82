"""A model for lm-evaluation-harness that is tuned for every context, and restored.

python -m siftlm.integrations.lm_eval --model siftlm --model_args model=siftlm-tiny,memory=memory,method=sift,n=20 \\
    --tasks hellaswag

is ``lm_eval`` with one model more. In Python: ``register()``, then ``lm_eval.simple_evaluate("siftlm", …)``.

Contexts are tokenized, scored and continued as the harness's own models do it, so results of the base model are those
of ``--model hf``, up to rounding.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from siftlm.controller import Controller, check_sampling, measure_spans, token_nats_of
from siftlm.controller.tokens import IGNORE_INDEX, TokenSpan, prefix_token_ids, spans_of, start_token, text_token_ids
from siftlm.errors import InvalidInput, UnknownName, setting
from siftlm.evaluation.fingerprints import memory_fingerprint
from siftlm.extras import load
from siftlm.flow import PromptState, TunedModel
from siftlm.local import LocalModel
from siftlm.progress import Meter, reporter
from siftlm.validation import choice

MODEL_NAME = "siftlm"
BASE_METHOD = "base"
ROLLING_MODES = ("untuned", "transductive")
# Contexts that LoRA tunes at once, by default.
DEFAULT_BATCH = 16
BASE_MODEL_SETTINGS = ("engine", "rank", "alpha", "targets", "device", "dtype", "context")
# Rows in one forward pass, each of which may have an adapter of its own.
MAX_BATCH_ROWS = 16
# Tokens of an answer, by default.
DEFAULT_MAX_TOKENS = 256
# The names of this setting that the harness accepts in tasks.
MAX_TOKENS_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class ContinuationScore:
    """The negative log-likelihood of a continuation."""

    nats: float
    greedy: bool
    """True if greedy decoding would produce it."""

    def __add__(self, other: ContinuationScore) -> ContinuationScore:
        return ContinuationScore(self.nats + other.nats, self.greedy and other.greedy)


EMPTY_SCORE = ContinuationScore(0.0, True)


class HarnessModel:
    """The harness's interface of a model. Together with the harness's own base class, this is the model ``siftlm``.

    Args:
        model: a model for `siftlm.LocalModel`.
        memory: a folder; required by every method except ``base``.
        method: any method of `siftlm.LocalModel`, whose default it is, or ``base`` for the base model.
        n: texts to tune on.
        rolling: how to score texts without a context (``loglikelihood_rolling``): ``untuned`` with the base model, or
            ``transductive`` with a model tuned for the scored text itself, as in the published tables. Required, unless
            the method is ``base``.
        add_bos_token: start every context with the start token; by default the tokenizer decides.
        batch_size: contexts that LoRA tunes together; 1 and ``auto`` mean the default. Results do not depend on it.
        max_batch_size: ignored; the harness always passes it.
        **settings: of `siftlm.Controller` (``engine``, ``dtype``, …) and of `siftlm.LocalModel`.
    """

    def __init__(
        self,
        model: Any = "siftlm-tiny",
        memory: Any = None,
        method: str | None = None,
        n: int | None = None,
        *,
        rolling: str | None = None,
        add_bos_token: bool | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,  # noqa: ARG002
        **settings: Any,
    ) -> None:
        super().__init__()
        if rolling is not None:
            choice("rolling", rolling, ROLLING_MODES)
        if memory is None and method != BASE_METHOD:
            asked = "tuning" if method is None else setting("method", method)
            raise InvalidInput(
                f"{asked} needs a memory: set {setting('memory')} to a folder, or pass {setting('method', BASE_METHOD)}"
            )
        self._method, self._rolling, self._batch = method, rolling, _batch_size(batch_size)
        self._local: LocalModel | None = None
        chosen = {**({} if n is None else {"n": n}), **settings, "device": _device_or_cpu(settings.get("device"))}
        if memory is not None:
            # For the base model as well, so that a wrong setting fails whatever the method.
            named = {} if method in (None, BASE_METHOD) else {"method": method}
            local = LocalModel(model, memory, **{**named, **chosen})
            self._local, self.controller = None if method == BASE_METHOD else local, local.controller
        else:
            for name in chosen:
                if name not in BASE_MODEL_SETTINGS:
                    raise UnknownName(f"setting of method={BASE_METHOD!r} without a memory", name, BASE_MODEL_SETTINGS)
            self.controller = model if isinstance(model, Controller) else Controller(model, **chosen)
        self._tokenizer = ContextTokenizer(self.controller.tokenizer, self.controller.context, add_bos_token)

    # --- the three kinds of requests

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood, would greedy decoding produce it?) of every continuation after its context.

        Texts are selected for the context alone, and requests with the same context share one tuning.
        """
        scores: dict[str, dict[str, ContinuationScore]] = defaultdict(dict)
        for context, continuation in (request.args for request in requests):
            scores[context][continuation] = EMPTY_SCORE
        meter = Meter("answering", "contexts", None if disable_tqdm else reporter(None), total=len(scores))

        def work(now: Any, tasks: Sequence[tuple[str, Sequence[str]]]) -> None:
            self._score(now, tasks, scores)
            for context, _ in tasks:
                for continuation, score in scores[context].items():
                    self._cache("loglikelihood", (context, continuation), (-score.nats, score.greedy))
            meter.add(len(tasks))

        self._with_each(list(scores), work)
        meter.finish()
        ordered = [scores[context][continuation] for context, continuation in (request.args for request in requests)]
        return [(-score.nats, score.greedy) for score in ordered]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts; see ``rolling``."""
        if self._local is not None and self._rolling is None:
            raise InvalidInput(
                "the task scores whole texts, which have no context to select for: pass rolling=transductive (tune for "
                "the scored text itself, as in the published tables) or rolling=untuned (the base model)"
            )
        _ = self._tokenizer.prefix  # the first token must follow something, or it would not be scored
        texts = [request.args[0] for request in requests]
        different = list(dict.fromkeys(texts))
        nats: dict[str, float] = {}
        if self._local is not None and self._rolling == "transductive":
            tuned = [text for text in different if text.strip()]
            results = self._local.score_many(
                tuned, mode="transductive", batch=self._batch, progress=False if disable_tqdm else None
            )
            nats = {text: score.likelihood.nats for text, score in zip(tuned, results, strict=True)}
        rest = [text for text in different if text not in nats]
        likelihoods = self.controller.likelihoods([(text, "") for text in rest])
        nats |= {text: one.nats for text, one in zip(rest, likelihoods, strict=True)}
        for text, own in nats.items():
            self._cache("loglikelihood_rolling", (text,), -own)
        return [-nats[text] for text in texts]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """A continuation of every context, up to the first of its ``until``."""
        texts: dict[int, str] = {}
        groups: dict[tuple[str, int], list[int]] = defaultdict(list)
        times: dict[str, int] = defaultdict(int)
        for index, (context, options) in enumerate(request.args for request in requests):
            sampling = sampling_settings(options, self.controller.context)
            key = json.dumps(sampling, sort_keys=True)
            repeat = 0
            if sampling["temperature"]:  # a repeated request is sampled again
                repeat = times[f"{key} {context}"]
                times[f"{key} {context}"] += 1
            groups[key, repeat].append(index)
        for (key, repeat), indices in groups.items():
            sampling = {**json.loads(key), "seed": repeat}
            prompts = dict.fromkeys(requests[index].args[0] for index in indices)
            generated = self._generate(list(prompts), sampling, disable_tqdm)
            for index in indices:
                context, options = requests[index].args
                texts[index] = generated[context]
                if not sampling["temperature"]:
                    self._cache("generate_until", (context, options), generated[context])
        return [texts[index] for index in range(len(requests))]

    # --- properties that the harness reads

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.controller.tokenizer

    @property
    def tokenizer_name(self) -> str:
        """The name for caches."""
        return self.controller.name.replace("/", "__")

    @property
    def max_length(self) -> int:
        """The model's context length."""
        return self.controller.context

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The tokenizer's chat template, by its name if there are several."""
        known = self.controller.tokenizer.chat_template
        if not chat_template or known is None:
            return None
        if isinstance(known, Mapping):
            known = known[
                choice("chat template", chat_template if isinstance(chat_template, str) else "default", known)
            ]
        return str(known)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as one context."""
        tokenizer = self.controller.tokenizer
        if tokenizer.chat_template is None:
            raise InvalidInput(
                f"the tokenizer of {self.controller.name!r} has no chat template: leave out --apply_chat_template"
            )
        complete = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        return str(tokenizer.apply_chat_template(chat_history, tokenize=False, **complete))

    def get_model_info(self) -> dict[str, Any]:
        """The model and its settings, for the file of results."""
        info = {
            "model": self.controller.name,
            "parameters": self.controller.parameters,
            "fingerprint": self.controller.fingerprint,
            "method": self._method,
            "rolling": self._rolling,
        }
        if self._local is not None:
            plain = (str, int, float, bool, list, type(None))
            settings = self._local.settings()
            settings = {name: one if isinstance(one, plain) else str(one) for name, one in settings.items()}
            memory = memory_fingerprint(self._local.memory)
            info |= {"method": settings["method"], "memory": memory, "settings": settings}
        return {"siftlm": info}

    # --- inside

    def _with_each(self, contexts: Sequence[str], work: Any) -> None:
        """Run ``work`` on a model tuned for each context, or on the base model for contexts without content."""
        # No texts can be selected for white space.
        tuned = [context for context in contexts if self._local is not None and context.strip()]
        rest = [context for context in contexts if self._local is None or not context.strip()]
        for start in range(0, len(rest), DEFAULT_BATCH):
            work(None, [(context, ()) for context in rest[start : start + DEFAULT_BATCH]])

        def on_tuned(now: TunedModel, tasks: Sequence[PromptState]) -> None:
            # After a divergence the model is the base model, as in `LocalModel.score`.
            work(now, [(task.prompt, () if task.trace.ended == "diverged" else task.context) for task in tasks])

        if self._local is not None and tuned:
            self._local.tune_many(tuned, on_tuned, batch=self._batch)

    def _score(
        self,
        now: TunedModel | None,
        tasks: Sequence[tuple[str, Sequence[str]]],
        scores: Mapping[str, dict[str, ContinuationScore]],
    ) -> None:
        """Fill in the scores of these contexts' continuations; task i is owner i of the model."""
        spans, keys = [], []
        for owner, (context, texts) in enumerate(tasks):
            fixed = self.controller.context_of(texts) if texts else ()
            for continuation in scores[context]:
                for span in self._tokenizer.spans(*self._tokenizer.pair(context, continuation), fixed):
                    spans.append((owner, span))
                    keys.append((context, continuation))
        rows = now.rows if now is not None else lambda _: nullcontext()
        for (context, continuation), score in zip(keys, score_spans(self.controller, spans, rows), strict=True):
            scores[context][continuation] += score

    def _generate(self, prompts: Sequence[str], sampling: Mapping[str, Any], disable_tqdm: bool) -> dict[str, str]:
        tuned = [prompt for prompt in prompts if self._local is not None and prompt.strip()]
        texts = {prompt: self.controller.generate(prompt, **sampling).text for prompt in prompts if prompt not in tuned}
        if self._local is not None and tuned:
            progress = False if disable_tqdm else None
            use = self._local.settings()["use"]  # as for likelihoods: unguarded unless the model was opened so
            answers = self._local.generate_many(tuned, batch=self._batch, progress=progress, use=use, **sampling)
            texts |= {prompt: answer.text for prompt, answer in zip(tuned, answers, strict=True)}
        return texts

    def _cache(self, kind: str, request: Iterable[Any], answer: Any) -> None:
        """Store an answer for ``--use_cache`` at once, so that it survives a later failure."""
        hook = getattr(self, "cache_hook", None)
        if hook is not None:
            hook.add_partial(kind, request, answer)


# --- tokens and scores, as the harness's own models compute them


@dataclass(frozen=True)
class ContextTokenizer:
    """Tokenizes a context together with its continuation; the tokens after the context's are the continuation's."""

    tokenizer: Any
    context: int
    """The model's context length."""
    bos: bool | None = None
    """Start every context with the start token; None lets the tokenizer decide."""

    @property
    def prefix(self) -> int:
        """The token that stands for an empty context."""
        token = start_token(self.tokenizer)
        if token is None:
            raise InvalidInput("the tokenizer has neither a bos nor an eos token to stand for an empty context")
        return token

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The tokens of both; white space at the context's end belongs to the continuation."""
        before = context.rstrip()
        continuation = context[len(before) :] + continuation
        if not before:
            ids = text_token_ids(self.tokenizer, continuation)
            # The text may contain its own start token.
            return (ids[:1], ids[1:]) if ids[:1] == [self.prefix] else ([self.prefix], ids)
        known, both = self._encode(before), self._encode(before + continuation)
        return known, both[len(known) :]

    def spans(self, context: Sequence[int], continuation: Sequence[int], fixed: Sequence[int] = ()) -> list[TokenSpan]:
        """The spans that score a continuation, with only the end of the context if not all of it fits.

        A continuation that is itself too long is scored in consecutive windows.
        """
        if not continuation:
            return []
        if fixed and list(context[:1]) == list(fixed[:1]) == [start_token(self.tokenizer)]:
            context = context[1:]  # the fixed tokens already begin with the start token
        room = self.context - len(fixed)
        if len(continuation) <= room:
            read = [*context, *continuation][-(room + 1) :]
            return [TokenSpan((*fixed, *read), len(continuation))]
        return spans_of(continuation, self.context, start=None, before=context, fixed=fixed)

    def _encode(self, text: str) -> list[int]:
        start = start_token(self.tokenizer)
        written = self.tokenizer.decode([start]) if start is not None else ""
        if self.bos is None:
            head = prefix_token_ids(self.tokenizer)
        else:
            head = [self.prefix] if self.bos else []
        if written and text.startswith(written):  # by a chat template
            head = []
        return [*head, *text_token_ids(self.tokenizer, text)]


def sampling_settings(options: Mapping[str, Any], context: int) -> dict[str, Any]:
    """The harness's settings of a generation as settings of `siftlm.Controller.generate`.

    >>> greedy = {"until": ["\\n"], "do_sample": False, "temperature": 0.7, "max_gen_toks": 9}
    >>> sampling_settings(greedy, 64)["temperature"]
    0.0
    """
    left = dict(options)
    until = left.pop("until", None) or []
    lengths = [left.pop(name) for name in MAX_TOKENS_NAMES if name in left]
    temperature = float(left.pop("temperature", 0.0))
    sampling: dict[str, Any] = {
        "stop": [one for one in ([until] if isinstance(until, str) else until) if one],
        "max_new_tokens": int(lengths[0]) if lengths else min(DEFAULT_MAX_TOKENS, context // 2),
        "temperature": 0.0 if left.pop("do_sample", None) is False else temperature,
        "top_p": float(left.pop("top_p", 1.0)),
    }
    for name in left:
        raise UnknownName("setting of a generation", name, (*MAX_TOKENS_NAMES, "until", "do_sample", "temperature"))
    check_sampling(sampling["max_new_tokens"], sampling["temperature"], sampling["top_p"], sampling["stop"], context)
    return sampling


def score_spans(
    controller: Controller,
    spans: Sequence[tuple[int, TokenSpan]],
    rows: Callable[[Sequence[int]], AbstractContextManager[Any]],
) -> list[ContinuationScore]:
    """The score of each (owner, span) by the owner's model; ``rows`` sets the owner of each row of a forward pass."""
    return controller.evaluating(
        lambda: measure_spans(
            controller.model,
            [span for _, span in spans],
            _measure_continuations,
            replace(controller.budget, rows=MAX_BATCH_ROWS),
            lambda batch: rows([spans[place][0] for place in batch]),
        )
    )


def _measure_continuations(logits: Any, labels: Any) -> list[ContinuationScore]:
    nats = token_nats_of(logits, labels).double().sum(dim=1).tolist()
    greedy = ((logits.argmax(dim=-1) == labels) | (labels == IGNORE_INDEX)).all(dim=1).tolist()
    return [ContinuationScore(one, best) for one, best in zip(nats, greedy, strict=True)]


@cache
def model_class() -> Any:
    """The model, as a class of the harness."""
    base = load("lm_eval.api.model", "lm-eval").LM
    return type("SiftLM", (HarnessModel, base), {"__doc__": HarnessModel.__doc__, "__module__": __name__})


def register() -> None:
    """Make ``--model siftlm`` known to the harness in this process."""
    load("lm_eval.models", "lm-eval")  # first, or the harness would not load its own models
    registry = load("lm_eval.api.registry", "lm-eval").model_registry
    if MODEL_NAME not in registry:
        registry.register(MODEL_NAME, target=model_class())


def main() -> None:
    """The harness's own command line, with this model."""
    register()
    load("lm_eval.__main__", "lm-eval").cli_evaluate()


def _batch_size(size: int | str | None) -> int:
    """The batch size; the harness passes 1 by default."""
    return DEFAULT_BATCH if size is None or str(size) == "1" or str(size).startswith("auto") else int(size)


def _device_or_cpu(device: str | None) -> str | None:
    """The device; the harness passes CUDA by default, and uses the CPU without it."""
    return None if device is not None and device.startswith("cuda") and not torch.cuda.is_available() else device


if __name__ == "__main__":
    main()
