"""Forward, and as far back as needed: each text's own gradient, sketched, out of batches of texts.

A text's gradient of a linear layer is Σₜ δₜ hₜᵀ, where hₜ is what the layer reads at token t and δₜ the gradient of
the text's loss in what the layer says. Texts stand in rows of their own, so both are there for every text at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from siftlm.embedding.gradients_layers import LinearLayer
from siftlm.embedding.gradients_sketch import TensorSketch, from_frequency_domain
from siftlm.embedding.transformer import autocast
from siftlm.errors import InvalidInput
from siftlm.extras import load

# Logits that are held at once: on a processor as many as stay in its cache.
MAX_GRADIENT_LOGITS = {"cpu": 2**21, "other": 2**25}
# No label: nothing is predicted there.
NO_LABEL = -1


class GradientPasses:
    """Sketched gradients of the mean loss of texts in some layers of a model."""

    def __init__(self, model: Any, layers: Sequence[LinearLayer], width: int, seed: int, precision: str | None) -> None:
        self._model, self._width, self._precision = model, width, precision
        self.device = next(model.parameters()).device
        self._head = model.get_output_embeddings()
        self._layers = list(layers)
        self._inner = [one for one in layers if one.module is not self._head]
        self._sketches = {
            one.name: TensorSketch(one.name, one.outputs, one.inputs, width, seed, self.device) for one in layers
        }
        self._head_name = next((one.name for one in layers if one.module is self._head), None)
        self._vocabulary = int(self._head.weight.shape[0])
        config = model.config
        scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
        self._bends = float(scale), getattr(config, "final_logit_softcapping", None)
        _check_head(self)

    def of(self, texts: Sequence[Sequence[int]]) -> Any:
        """(texts, width) of texts of two tokens or more: each token but the first is predicted from those before."""
        torch = load("torch", "hf")
        ids, labels = self._padded(texts)
        rows, places = (labels != NO_LABEL).nonzero(as_tuple=True)
        total = torch.zeros((len(texts), self._width // 2 + 1, 2), device=self.device)
        with _frozen_weights(self._model), self._watching() as seen, torch.set_grad_enabled(bool(self._inner)):
            states = self.states(ids)
        if not _has_text_axis(seen, ids.shape):
            return torch.cat([self.of([text]) for text in texts])
        back = torch.zeros_like(states) if self._inner else None
        at_once = max(1, MAX_GRADIENT_LOGITS["cpu" if self.device.type == "cpu" else "other"] // self._vocabulary)
        for some in torch.arange(len(rows), device=self.device).split(at_once):
            where = rows[some], places[some]
            own = states.detach()[where]
            deltas, onwards = self._of_loss(own, labels[where])
            if self._head_name is not None:
                self._sketches[self._head_name].add(total, where[0], deltas, own)
            if back is not None:
                back[where] = onwards.to(back.dtype)
        if seen:
            self._further_back(total, (rows, places), states, back, seen)
        counts = (labels != NO_LABEL).sum(dim=1, keepdim=True)
        return from_frequency_domain(total, self._width) / counts

    def states(self, ids: Any) -> Any:
        """What the head reads."""
        with autocast(self.device.type, self._precision):
            # Padding stands behind the text, where a causal model does not look, so there is no mask.
            return self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state

    def logits(self, said: Any) -> Any:
        """What some models make of the head's output."""
        scale, cap = self._bends
        said = said.float() * scale if scale != 1 else said.float()
        return said if cap is None else cap * (said / cap).tanh()

    def said(self, states: Any) -> Any:
        """The head's output."""
        with autocast(self.device.type, self._precision):
            return self._head(states)

    def _of_loss(self, states: Any, labels: Any) -> tuple[Any, Any]:
        """The gradients of each token's loss in what the head says, and in what it reads if that is needed."""
        torch = load("torch", "hf")
        scale, cap = self._bends
        with torch.set_grad_enabled(bool(self._inner)), _frozen_weights(self._model):
            states = states.detach().requires_grad_(bool(self._inner))
            said = self.said(states)
        with torch.no_grad():
            logits = self.logits(said)
            deltas = logits.softmax(dim=1)
            deltas[torch.arange(len(labels), device=self.device), labels] -= 1
            if cap is not None:
                deltas *= 1 - (logits / cap) ** 2
            if scale != 1:
                deltas *= scale
        if not self._inner:
            return deltas, None
        return deltas, torch.autograd.grad(said, states, grad_outputs=deltas.to(said.dtype))[0]

    def _further_back(self, total: Any, where: Any, states: Any, back: Any, seen: Sequence[Any]) -> None:
        torch = load("torch", "hf")
        deltas = torch.autograd.grad(states, [said for _, _, said in seen], grad_outputs=back, allow_unused=True)
        for (name, read, _), delta in zip(seen, deltas, strict=True):
            if delta is None:
                continue
            if read.dim() == 3:
                self._sketches[name].add(total, where[0], delta[where], read[where])
            else:
                rows = torch.zeros(len(read), dtype=torch.long, device=self.device)
                self._sketches[name].add(total, rows, delta, read)

    def _padded(self, texts: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        """What is read and what is predicted, (texts, tokens) each; the last token is not read."""
        torch = load("torch", "hf")
        ids = torch.zeros((len(texts), max(len(text) for text in texts) - 1), dtype=torch.long)
        labels = torch.full_like(ids, NO_LABEL)
        for row, text in enumerate(texts):
            ids[row, : len(text) - 1] = torch.tensor(text[:-1])
            labels[row, : len(text) - 1] = torch.tensor(text[1:])
        return ids.to(self.device), labels.to(self.device)

    @contextmanager
    def _watching(self) -> Iterator[list[tuple[str, Any, Any]]]:
        """(name, what it read, what it said) of each call of an inner layer."""
        seen: list[tuple[str, Any, Any]] = []
        hooks = [one.module.register_forward_hook(_recording_hook(one.name, seen)) for one in self._inner]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()


def _recording_hook(name: str, seen: list[tuple[str, Any, Any]]) -> Any:
    def record(module: Any, arguments: tuple[Any, ...], said: Any) -> Any:
        del module
        # The first layers that are watched begin the graph: nothing before them wants a gradient.
        said = said if said.requires_grad else said.requires_grad_()
        seen.append((name, arguments[0].detach(), said))
        return said.clone()  # so that nobody changes it in place

    return record


def _has_text_axis(seen: Sequence[tuple[str, Any, Any]], shape: Any) -> bool:
    """Does every layer see (texts, tokens, …)? Experts, for one, get tokens that are sorted differently."""
    return shape[0] == 1 or all(read.shape[:-1] == shape for _, read, _ in seen)


@contextmanager
def _frozen_weights(model: Any) -> Iterator[None]:
    """No weight wants a gradient, so nothing is kept for one."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    for p in wanted:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in wanted:
            p.requires_grad_(True)


def _check_head(gradients: GradientPasses) -> None:
    """Some models do more between their last states and their logits than is known here."""
    torch = load("torch", "hf")
    model = gradients._model
    ids = torch.arange(min(8, int(model.get_input_embeddings().weight.shape[0])), device=gradients.device)[None]
    with torch.no_grad():
        ours = gradients.logits(gradients.said(gradients.states(ids)))
        with autocast(gradients.device.type, gradients._precision):
            theirs = model(input_ids=ids, use_cache=False).logits.float()
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2 * float(theirs.std())):
        raise InvalidInput(
            f"{type(model).__name__} does something to its logits that is not known here, so gradients would be wrong"
        )
