"""A model for lm-evaluation-harness that learns from a memory for every context, and forgets.

python -m siftlm.integrations.lm_eval --model siftlm --model_args model=siftlm-tiny,memory=memory,method=sift,n=20 \\
    --tasks hellaswag

is ``lm_eval`` with one model more. In Python: ``register()``, then ``lm_eval.simple_evaluate("siftlm", …)``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

from siftlm.controller import Controller
from siftlm.errors import InvalidInput, UnknownName
from siftlm.evaluation.fingerprints import memory_fingerprint
from siftlm.extras import load
from siftlm.flow import PromptState, TunedModel, learned_many
from siftlm.integrations._lm_eval_scoring import (
    EMPTY_SCORE,
    ContextTokenizer,
    ContinuationScore,
    sampling_settings,
    score_spans,
)
from siftlm.local import LocalModel
from siftlm.progress import Meter, reporter

MODEL_NAME = "siftlm"
BASE_METHOD = "base"
ROLLING_MODES = ("untuned", "transductive")
# Contexts that LoRA tunes at once, where nobody says how many.
DEFAULT_BATCH = 16
BASE_MODEL_SETTINGS = ("engine", "rank", "alpha", "targets", "device", "dtype", "context")


class HarnessModel:
    """What the harness asks of a model. With the harness's own class below it, this is the model ``siftlm``.

    Args:
        model: as for `siftlm.LocalModel`.
        memory: a folder; needed for every method but ``base``.
        method: any that `siftlm.LocalModel` knows, or ``base``: the model as it is.
        n: texts to learn from.
        rolling: how texts without a context are scored (``loglikelihood_rolling``): ``untuned`` by the base model, or
            ``transductive`` by a model that has learned for the very text that is scored, as in the published tables.
            Must be said, unless the method is ``base``.
        add_bos_token: does the start token stand before every context? Left out: as the tokenizer has it.
        batch_size: contexts that LoRA tunes together; 1 and ``auto`` leave it to us. Results are the same.
        max_batch_size: taken, for the harness hands it over, and not used.
        **settings: of `siftlm.Controller` (``engine``, ``dtype``, …) and of `siftlm.LocalModel`.
    """

    def __init__(
        self,
        model: Any = "siftlm-tiny",
        memory: Any = None,
        method: str = "sift",
        n: int | None = None,
        *,
        rolling: str | None = None,
        add_bos_token: bool | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,  # noqa: ARG002
        **settings: Any,
    ) -> None:
        super().__init__()
        if rolling is not None and rolling not in ROLLING_MODES:
            raise UnknownName("rolling", rolling, ROLLING_MODES)
        if memory is None and method != BASE_METHOD:
            raise InvalidInput(
                f"method={method!r} learns from a memory: memory=FOLDER, or method={BASE_METHOD} for none"
            )
        self._method, self._rolling, self._batch = method, rolling, _batch_size(batch_size)
        self._local: LocalModel | None = None
        chosen: dict[str, Any] = {
            **({} if n is None else {"n": n}),
            **settings,
            "device": _device_or_cpu(settings.get("device")),
        }
        if memory is not None:
            # Also for the base model: a wrong setting is wrong whatever it is compared with.
            local = LocalModel(model, memory, **{**({} if method == BASE_METHOD else {"method": method}), **chosen})
            self._local, self.controller = None if method == BASE_METHOD else local, local.controller
        else:
            for name in chosen:
                if name not in BASE_MODEL_SETTINGS:
                    raise UnknownName(f"setting of method={BASE_METHOD!r} without a memory", name, BASE_MODEL_SETTINGS)
            self.controller = model if isinstance(model, Controller) else Controller(model, **chosen)
        self._reader = ContextTokenizer(self.controller.tokenizer, self.controller.context, add_bos_token)

    # --- what the harness asks

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood, is it what greedy decoding says?) of every continuation behind its context.

        Texts are selected for the context alone, and requests of one context share one tuning.
        """
        asked: dict[str, dict[str, ContinuationScore]] = defaultdict(dict)
        for context, continuation in (request.args for request in requests):
            asked[context][continuation] = EMPTY_SCORE
        meter = Meter("answering", "contexts", None if disable_tqdm else reporter(None), total=len(asked))

        def work(now: Any, tasks: Sequence[tuple[str, Sequence[str]]]) -> None:
            self._score(now, tasks, asked)
            for context, _ in tasks:
                for continuation, answer in asked[context].items():
                    self._keep("loglikelihood", (context, continuation), (-answer.nats, answer.greedy))
            meter.add(len(tasks))

        self._with_each(list(asked), work)
        meter.finish()
        found = [asked[context][continuation] for context, continuation in (request.args for request in requests)]
        return [(-answer.nats, answer.greedy) for answer in found]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts; see ``rolling``."""
        if self._local is not None and self._rolling is None:
            raise InvalidInput(
                "the task scores whole texts, which have no context to learn for: say rolling=transductive (learn for "
                "the scored text itself, as in the published tables) or rolling=untuned (the base model)"
            )
        _ = self._reader.prefix  # the first token has to stand behind something, or it would not count
        texts = [request.args[0] for request in requests]
        different = list(dict.fromkeys(texts))
        if self._local is not None and self._rolling == "transductive":
            learn = [text for text in different if text.strip()]
            scores = self._local.score_many(
                learn, mode="transductive", batch=self._batch, progress=False if disable_tqdm else None
            )
            found = {text: score.likelihood.nats for text, score in zip(learn, scores, strict=True)}
        else:
            found = {}
        rest = [text for text in different if text not in found]
        seen = self.controller.likelihoods([(text, "") for text in rest])
        found |= {text: one.nats for text, one in zip(rest, seen, strict=True)}
        for text, nats in found.items():
            self._keep("loglikelihood_rolling", (text,), -nats)
        return [-found[text] for text in texts]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """A continuation of every context, up to the first of its ``until``."""
        said: dict[int, str] = {}
        groups: dict[tuple[str, int], list[int]] = defaultdict(list)
        times: dict[str, int] = defaultdict(int)
        for place, (context, wanted) in enumerate(request.args for request in requests):
            how = sampling_settings(wanted, self.controller.context)
            key = json.dumps(how, sort_keys=True)
            repeat = 0
            if how["temperature"]:  # asked again, it is to be drawn again
                repeat = times[f"{key} {context}"]
                times[f"{key} {context}"] += 1
            groups[key, repeat].append(place)
        for (key, repeat), places in groups.items():
            how = {**json.loads(key), "seed": repeat}
            prompts = dict.fromkeys(requests[place].args[0] for place in places)
            made = self._generate(list(prompts), how, disable_tqdm)
            for place in places:
                context, wanted = requests[place].args
                said[place] = made[context]
                if not how["temperature"]:
                    self._keep("generate_until", (context, wanted), made[context])
        return [said[place] for place in range(len(requests))]

    # --- what it wants to know

    @property
    def tokenizer(self) -> Any:
        """Of the model."""
        return self.controller.tokenizer

    @property
    def tokenizer_name(self) -> str:
        """For the names of caches."""
        return self.controller.name.replace("/", "__")

    @property
    def max_length(self) -> int:
        """Tokens that the model reads at once."""
        return self.controller.context

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The tokenizer's, by its name where it has several."""
        known = self.controller.tokenizer.chat_template
        if not chat_template or known is None:
            return None
        if isinstance(known, Mapping):
            name = chat_template if isinstance(chat_template, str) else "default"
            if name not in known:
                raise UnknownName("chat template", name, known)
            known = known[name]
        return str(known)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as one context."""
        tokenizer = self.controller.tokenizer
        if tokenizer.chat_template is None:
            raise InvalidInput(
                f"the tokenizer of {self.controller.name!r} has no chat template: no --apply_chat_template"
            )
        return str(
            tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def get_model_info(self) -> dict[str, Any]:
        """Written into the results, so that they say how they were made."""
        known = {
            "model": self.controller.name,
            "parameters": self.controller.parameters,
            "fingerprint": self.controller.fingerprint,
            "method": self._method,
            "rolling": self._rolling,
        }
        if self._local is not None:
            settings = {
                name: value if _is_plain(value) else str(value) for name, value in self._local.settings().items()
            }
            known |= {"memory": memory_fingerprint(self._local.memory), "settings": settings}
        return {"siftlm": known}

    # --- inside

    def _with_each(self, contexts: Sequence[str], work: Any) -> None:
        """Do the work with a model that has learned for each context; where there is none, with the model as it is."""
        # There is nothing to select for in white space.
        learn = [context for context in contexts if self._local is not None and context.strip()]
        rest = [context for context in contexts if self._local is None or not context.strip()]
        for start in range(0, len(rest), DEFAULT_BATCH):
            work(None, [(context, ()) for context in rest[start : start + DEFAULT_BATCH]])

        def learned(now: TunedModel, tasks: Sequence[PromptState]) -> None:
            # After a divergence the model is the base model, as in `LocalModel.score`.
            work(now, [(task.prompt, () if task.went.ended == "diverged" else task.context) for task in tasks])

        if self._local is not None and learn:
            learned_many(self._local, learn, learned, self._batch, {})

    def _score(
        self,
        now: TunedModel | None,
        tasks: Sequence[tuple[str, Sequence[str]]],
        into: Mapping[str, dict[str, ContinuationScore]],
    ) -> None:
        """Fill in the continuations of these contexts; task i is owner i of the model."""
        spans, whose = [], []
        for owner, (context, texts) in enumerate(tasks):
            fixed = self.controller.context_of(texts) if texts else ()
            for continuation in into[context]:
                for span in self._reader.spans(*self._reader.pair(context, continuation), fixed):
                    spans.append((owner, span))
                    whose.append((context, continuation))
        rows = now.rows if now is not None else lambda _: nullcontext()
        for (context, continuation), answer in zip(whose, score_spans(self.controller, spans, rows), strict=True):
            into[context][continuation] += answer

    def _generate(self, prompts: Sequence[str], how: Mapping[str, Any], disable_tqdm: bool) -> dict[str, str]:
        learn = [prompt for prompt in prompts if self._local is not None and prompt.strip()]
        found = {prompt: self.controller.generate(prompt, **how).text for prompt in prompts if prompt not in learn}
        if self._local is not None and learn:
            made = self._local.generate_many(learn, batch=self._batch, progress=False if disable_tqdm else None, **how)
            found |= {prompt: answer.text for prompt, answer in zip(learn, made, strict=True)}
        return found

    def _keep(self, kind: str, asked: Iterable[Any], answer: Any) -> None:
        """For ``--use_cache``: what is known at once is not lost when the rest fails."""
        hook = getattr(self, "cache_hook", None)
        if hook is not None:
            hook.add_partial(kind, asked, answer)


@cache
def model_class() -> Any:
    """The model, as a class of the harness."""
    below = load("lm_eval.api.model", "lm-eval").LM
    return type("SiftLM", (HarnessModel, below), {"__doc__": HarnessModel.__doc__, "__module__": __name__})


def register() -> None:
    """Make ``--model siftlm`` known to the harness in this process."""
    load("lm_eval.models", "lm-eval")  # or it would take ours for all that there are
    known = load("lm_eval.api.registry", "lm-eval").model_registry
    if MODEL_NAME not in known:
        known.register(MODEL_NAME, target=model_class())


def main() -> None:
    """The harness's own command line, with our model."""
    register()
    load("lm_eval.__main__", "lm-eval").cli_evaluate()


def _batch_size(asked: int | str | None) -> int:
    """The harness says 1 where nobody said anything."""
    return DEFAULT_BATCH if asked is None or str(asked) == "1" or str(asked).startswith("auto") else int(asked)


def _device_or_cpu(asked: str | None) -> str | None:
    """The harness asks for CUDA where nobody asked for anything, and takes the CPU where there is none."""
    there = load("torch", "tune").cuda.is_available()
    return None if asked is not None and asked.startswith("cuda") and not there else asked


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, list, type(None)))


if __name__ == "__main__":
    main()
