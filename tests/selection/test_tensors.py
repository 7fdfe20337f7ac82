"""The torch twin as a whole: batches, chunks, forms, what it leaves alone, and what it refuses."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from siftlm import Selection, select, select_many
from siftlm.errors import Conflict, InvalidInput, MissingExtra, UnknownName
from siftlm.selection import Limits, Stopping, kernels

torch = pytest.importorskip("torch", reason="the torch twin needs torch: pip install 'siftlm[torch]'")
tensors = pytest.importorskip("siftlm.selection.tensors")
pytestmark = pytest.mark.slow

NAMES = sorted(tensors.METHODS)
AS_NUMPY = sorted(set(NAMES) - {"random"})


def draw(*shape: int, seed: int = 0, dtype: Any = np.float64) -> np.ndarray:
    """Vectors around a few topics, so that redundancy matters."""
    rng = np.random.default_rng(seed)
    topics = rng.normal(size=(5, shape[-1]))
    return (topics[rng.integers(5, size=shape[:-1])] + 0.7 * rng.normal(size=shape)).astype(dtype)


def one(query: Any, candidates: Any, n: int | None, **settings: Any) -> Selection:
    """The door, with one prompt."""
    return select_many(query[None], candidates, n, **settings)[0]


def assert_same(mine: Selection, theirs: Selection, *, atol: float = 1e-10) -> None:
    assert mine.indices.tolist() == theirs.indices.tolist()
    np.testing.assert_allclose(mine.gains, theirs.gains, atol=atol)
    np.testing.assert_allclose(mine.uncertainty, theirs.uncertainty, atol=atol)
    assert (mine.stopped, mine.method, mine.noise) == (theirs.stopped, theirs.method, theirs.noise)


def assert_equal_batches(one: Any, other: Any, *, atol: float = 1e-10) -> None:
    assert one.indices.tolist() == other.indices.tolist()
    assert one.counts.tolist() == other.counts.tolist()
    assert one.reasons.tolist() == other.reasons.tolist()
    torch.testing.assert_close(one.gains, other.gains, atol=atol, rtol=1e-6)
    torch.testing.assert_close(one.uncertainty, other.uncertainty, atol=atol, rtol=1e-6)


# --- the same picks as numpy


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("noise", [1e-8, 1e-4, 0.01, 1.0])
@pytest.mark.parametrize("name", AS_NUMPY)
def test_the_same_picks_as_numpy(name: str, noise: float, targets: int) -> None:
    queries, candidates = draw(6, targets, 40, seed=1), draw(6, 60, 40)
    found = select_many(torch.tensor(queries), torch.tensor(candidates), 20, method=name, noise=noise)
    for query, own, mine in zip(queries, candidates, found, strict=True):
        assert_same(mine, select(query, own, 20, method=name, noise=noise), atol=1e-12 / noise + 1e-10)


def test_one_embedding_a_prompt_may_leave_out_its_axis() -> None:
    queries, candidates = torch.tensor(draw(4, 10, seed=1)), torch.tensor(draw(30, 10))
    found = select_many(queries, candidates, 5)
    assert_equal_batches(found, select_many(queries[:, None], candidates, 5))
    assert found.indices.shape == (4, 5)
    assert found.uncertainty.shape == (4, 6)
    assert found.counts.tolist() == [5] * 4
    assert len(found) == 4


def test_more_picks_than_features() -> None:
    queries, candidates = draw(3, 6, seed=1), draw(3, 50, 6)
    found = select_many(torch.tensor(queries), torch.tensor(candidates), 40)
    for query, own, mine in zip(queries, candidates, found, strict=True):
        assert_same(mine, select(query, own, 40))


def test_more_picks_than_candidates() -> None:
    query, candidates = draw(8, seed=1), draw(10, 8)
    mine = one(torch.tensor(query), torch.tensor(candidates), 25, replacement=True)
    assert_same(mine, select(query, candidates, 25, replacement=True))


@pytest.mark.parametrize("replacement", [True, False, 2])
@pytest.mark.parametrize("name", AS_NUMPY)
def test_replacement(name: str, replacement: bool | int) -> None:
    query, candidates = draw(12, seed=1), draw(15, 12)
    mine = one(torch.tensor(query), torch.tensor(candidates), 14, method=name, replacement=replacement)
    assert_same(mine, select(query, candidates, 14, method=name, replacement=replacement))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("noise", [1e-8, 0.01])
@pytest.mark.parametrize("form", ["rows", "features"])
def test_hundreds_of_duplicates_go_by_index(form: str, noise: float, dtype: Any) -> None:
    few = draw(12, 64, dtype=dtype)
    query, candidates = draw(64, seed=1, dtype=dtype), np.repeat(few, 40, axis=0)
    candidates[::3] *= -1
    found = select_many(
        torch.tensor(query)[None], torch.tensor(candidates), 12, noise=noise, form=form, replacement=False
    )
    distinct = select(query, few, 3, noise=noise).indices * 40
    assert found.indices[0, :3].tolist() == distinct.tolist()
    assert torch.isfinite(found.gains).all()
    assert (found.uncertainty.diff() <= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_short_floats(dtype: Any) -> None:
    queries, candidates = torch.tensor(draw(3, 40, seed=1)).to(dtype), torch.tensor(draw(3, 60, 40)).to(dtype)
    found = select_many(queries, candidates, 12)
    assert found.gains.dtype == torch.float64
    exact = select_many(queries.double(), candidates.double(), 12)
    assert_equal_batches(found, exact, atol=1e-5)
    assert_equal_batches(select_many(queries, candidates, 12, precision=torch.float64), exact)


def test_float32_is_enough_to_do_its_work_in() -> None:
    queries, candidates = torch.tensor(draw(3, 40, seed=1)).float(), torch.tensor(draw(3, 60, 40)).float()
    narrow = select_many(queries, candidates, 12, noise=0.1, precision=torch.float32)
    wide = select_many(queries, candidates, 12, noise=0.1)
    assert narrow.gains.dtype == torch.float32
    assert narrow.indices.tolist() == wide.indices.tolist()


@pytest.mark.parametrize("form", ["rows", "features"])
@pytest.mark.parametrize("noise", [1.0, 0.1, 0.01])
def test_a_variance_below_zero_is_rounding(form: str, noise: float) -> None:
    # A noise that even float64 hardly resolves: rounding takes the variance of a repeat below zero.
    queries, few = 1e6 * torch.tensor(draw(8, 16, seed=1)), 1e6 * torch.tensor(draw(10, 16))
    found = select_many(queries, few.repeat(10, 1), 40, noise=noise, normalize=False, form=form)
    assert (found.gains >= 0).all()
    assert (found.uncertainty.diff() <= 0).all()


def test_equal_and_opposite_vectors_are_one_group() -> None:
    from siftlm.selection.tensors.posterior import TensorTies, _groups

    few = torch.tensor(draw(40, 64)).float()
    vectors = torch.cat([few, -few, 4 * few])[None]
    scaled = _groups(vectors, vectors.double().norm(dim=-1), normalize=True)[0]
    assert len(scaled.unique()) == 40
    assert torch.equal(scaled[:40], scaled[40:80])
    assert torch.equal(scaled[:40], scaled[80:])
    plain = _groups(vectors, vectors.double().norm(dim=-1), normalize=False)[0]
    assert len(plain.unique()) == 80
    assert torch.equal(plain[:40], plain[40:80])

    # Within plain rounding anything ties; within magnified rounding only the same vector does.
    ties = TensorTies(1e-9, torch.tensor([[1e-3]]), torch.tensor([[7, 8, 8, 9]]))
    scores = torch.tensor([[0.9995, 0.9994, 1.0, 1 - 1e-12]], dtype=torch.float64)
    assert ties.equals(scores, scores.amax(1, keepdim=True), torch.tensor([[2]])).tolist() == [
        [False, True, True, True]
    ]
    ties = TensorTies(1e-9)
    assert ties.equals(scores, scores.amax(1, keepdim=True), torch.tensor([[2]])).tolist() == [
        [False, False, True, True]
    ]


@pytest.mark.parametrize(("word", "wide"), [("highest", False), ("high", True), ("medium", True)])
def test_careless_products_are_not_relied_on(word: str, wide: bool) -> None:
    from siftlm.selection.tensors import product_dtype

    torch.set_float32_matmul_precision(word)
    try:
        found = product_dtype(torch.float32, torch.ones(3).double(), None, 0.01, normalize=True, precision=None)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert found == (torch.float64 if wide else torch.float32)


@pytest.mark.parametrize(
    ("scale", "noise", "wide"), [(1, 1e-3, False), (1, 9e-4, True), (3, 5e-3, True), (3, 0.01, False)]
)
def test_a_small_noise_takes_wide_products(scale: float, noise: float, wide: bool) -> None:
    from siftlm.selection.tensors import product_dtype

    lengths, mask = torch.full((4,), float(scale), dtype=torch.float64), torch.tensor([True, True, True, False])
    lengths[3] = torch.nan
    found = product_dtype(torch.float16, lengths, mask, noise, normalize=scale == 1, precision=None)
    assert found == (torch.float64 if wide else torch.float32)


# --- batches, chunks, forms


@pytest.mark.parametrize("name", NAMES)
def test_one_at_a_time_is_a_batch(name: str) -> None:
    queries, candidates = torch.tensor(draw(7, 2, 20, seed=1)), torch.tensor(draw(7, 40, 20))
    found = select_many(queries, candidates, 10, method=name)
    for query, own, mine in zip(queries, candidates, found, strict=True):
        assert_same(mine, one(query, own, 10, method=name))


@pytest.mark.parametrize("name", NAMES)
def test_shared_candidates_are_equal_sets(name: str) -> None:
    queries, candidates = torch.tensor(draw(5, 20, seed=1)), torch.tensor(draw(40, 20))
    shared = select_many(queries, candidates, 10, method=name)
    assert_equal_batches(shared, select_many(queries, candidates.expand(5, -1, -1), 10, method=name))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("form", ["rows", "features"])
@pytest.mark.parametrize("name", NAMES)
def test_chunks_change_nothing(name: str, form: str, shared: bool) -> None:
    queries, candidates = torch.tensor(draw(9, 20, seed=1)), torch.tensor(draw(9, 40, 20))
    candidates = candidates[0] if shared else candidates
    mask = torch.tensor(np.random.default_rng(2).random((9, 40)) < 0.7)
    settings = {"method": name, "form": form, "mask": mask, "until": 0.3}
    whole = select_many(queries, candidates, 10, memory=1 << 40, **settings)
    for memory in (1, 60_000):
        assert_equal_batches(whole, select_many(queries, candidates, 10, memory=memory, **settings))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"nearest", "nn-f", "mmr", "random"}))
@pytest.mark.parametrize(("size", "width", "n"), [(40, 20, 10), (40, 20, 30), (300, 4, 30)])
def test_both_forms_are_one(name: str, size: int, width: int, n: int) -> None:
    queries, candidates = torch.tensor(draw(4, 2, width, seed=1)), torch.tensor(draw(size, width))
    rows = select_many(queries, candidates, n, method=name, form="rows")
    assert_equal_batches(rows, select_many(queries, candidates, n, method=name, form="features"))


def test_a_gram_matrix_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    front = importlib.import_module("siftlm.selection.tensors")
    for shape in ((60, 20), (3, 60, 20)):
        queries, candidates = torch.tensor(draw(3, 20, seed=1)), torch.tensor(draw(*shape))
        for name in ("sift", "mmr"):
            monkeypatch.setattr(front, "TENSOR_GRAM_CANDIDATES", 8192)
            before = select_many(queries, candidates, 20, method=name)
            monkeypatch.setattr(front, "TENSOR_GRAM_CANDIDATES", 0)
            assert_equal_batches(before, select_many(queries, candidates, 20, method=name))


@pytest.mark.parametrize("name", NAMES)
def test_ragged_sets_can_be_padded(name: str) -> None:
    sizes = [12, 40, 25]
    queries = torch.tensor(draw(3, 20, seed=1))
    candidates, mask = (
        torch.full((3, 40, 20), torch.nan, dtype=torch.float64),
        torch.zeros(3, 40, dtype=torch.bool),
    )
    for b, size in enumerate(sizes):
        candidates[b, :size] = torch.tensor(draw(size, 20, seed=b))
        mask[b, :size] = True
    found = select_many(queries, candidates, None, method=name, mask=mask)
    assert found.counts.tolist() == sizes
    for b, size in enumerate(sizes):
        alone = one(queries[b], candidates[b, :size], None, method=name)
        assert_same(found[b], alone)
        assert found.indices[b, size:].tolist() == [-1] * (40 - size)
        assert not found.gains[b, size:].any()
        assert (found.uncertainty[b, size:] == found.uncertainty[b, size]).all()


def test_a_mask_excludes() -> None:
    query, candidates = draw(20, seed=1), draw(40, 20)
    mask = np.random.default_rng(3).random(40) < 0.5
    mine = one(torch.tensor(query), torch.tensor(candidates), 10, mask=torch.tensor(mask))
    assert_same(mine, select(query, candidates, 10, exclude=~mask))


def test_a_mask_for_each_prompt_of_a_shared_set() -> None:
    queries, candidates = draw(5, 20, seed=1), draw(40, 20)
    mask = np.random.default_rng(3).random((5, 40)) < 0.5
    found = select_many(
        torch.tensor(queries),
        torch.tensor(candidates),
        10,
        mask=torch.tensor(mask),
        normalize=False,
        memory=50_000,
    )
    for b, mine in enumerate(found):
        assert_same(mine, select(queries[b], candidates, 10, exclude=~mask[b], normalize=False), atol=1e-7)


@pytest.mark.parametrize(
    "rules",
    [
        {"adaptive": 0.3},
        {"until": 0.4},
        {"min_gain": 0.03},
        {"min_growth": 0.1},
        {"adaptive": 0.2, "until": 0.6, "at_least": 4},
        {"stopping": Stopping(adaptive=0.2, min_gain=0.04), "at_least": 2},
    ],
)
def test_stopping(rules: dict[str, Any]) -> None:
    queries, candidates = draw(12, 30, seed=1), draw(12, 60, 30)
    found = select_many(torch.tensor(queries), torch.tensor(candidates), 40, **rules)
    theirs = [select(q, own, 40, **rules) for q, own in zip(queries, candidates, strict=True)]
    assert len({len(one) for one in theirs}) > 1
    for mine, other in zip(found, theirs, strict=True):
        assert_same(mine, other)
    for b, count in enumerate(found.counts.tolist()):
        assert (found.indices[b, count:] == -1).all()
        assert not found.gains[b, count:].any()
        assert (found.uncertainty[b, count:] == found.uncertainty[b, count]).all()


def test_no_prompts() -> None:
    found = select_many(torch.empty(0, 4), torch.ones(3, 4), 2)
    assert found.indices.shape == (0, 2)
    assert list(found) == []
    assert select_many(torch.empty(0, 4), torch.ones(0, 3, 4), 2).uncertainty.shape == (0, 3)


# --- what it leaves alone


def test_the_tensors_of_the_caller_stay_as_they_are() -> None:
    for dtype in (torch.float64, torch.float32):
        queries = torch.tensor(draw(3, 2, 12, seed=1)).to(dtype).requires_grad_()
        candidates = torch.tensor(draw(3, 30, 12)).to(dtype).requires_grad_()
        mask = torch.ones(3, 30, dtype=torch.bool)
        before = [tensor.detach().clone() for tensor in (queries, candidates, mask)]
        for name in NAMES:
            for normalize in (True, False):
                select_many(queries, candidates, 8, method=name, mask=mask, normalize=normalize)
        for tensor, was in zip((queries, candidates, mask), before, strict=True):
            assert torch.equal(tensor.detach(), was)
        assert queries.grad is None
        assert candidates.grad is None


def test_no_graph_is_kept_and_the_results_may_enter_one() -> None:
    queries, candidates = torch.ones(2, 3, requires_grad=True), torch.eye(3, requires_grad=True)
    found = select_many(queries, candidates, 2)
    for tensor in (found.indices, found.gains, found.uncertainty, found.counts):
        assert not tensor.requires_grad
        assert not tensor.is_inference()
    weight = torch.ones(2, requires_grad=True, dtype=torch.float64)
    (found.gains * weight).sum().backward()
    assert weight.grad is not None


def test_no_global_state_changes() -> None:
    torch.manual_seed(5)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), torch.get_num_threads())  # noqa: NPY002
    for name in NAMES:
        one(torch.ones(3), torch.eye(3), 2, method=name, seed=3)
    after = (torch.get_rng_state(), np.random.get_state()[1].tolist(), torch.get_num_threads())  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_global_settings_change_nothing() -> None:
    queries, candidates = torch.tensor(draw(3, 40, seed=1)).float(), torch.tensor(draw(60, 40)).float()
    before = select_many(queries, candidates, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = select_many(queries, candidates, 12)
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)
    try:
        other = select_many(queries, candidates, 12)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
        torch.use_deterministic_algorithms(False)
    assert_equal_batches(before, inside, atol=0)
    assert_equal_batches(before, other, atol=1e-5)


def test_random_is_seeded() -> None:
    queries, candidates = torch.ones(4, 6), torch.tensor(draw(500, 6)).float()
    picks = [select_many(queries, candidates, 40, method="random", seed=seed) for seed in (0, 0, 1)]
    assert_equal_batches(picks[0], picks[1], atol=0)
    assert picks[0].indices.tolist() != picks[2].indices.tolist()
    assert len(picks[0].indices[0].unique()) == 40
    repeated = one(queries[0], candidates[:5], 50, method="random", replacement=True)
    assert set(repeated.indices.tolist()) == set(range(5))


def test_without_torch_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("siftlm.selection.tensors")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"pip install 'siftlm\[torch\]'"):
        importlib.import_module("siftlm.selection.tensors")


def test_selection_does_not_import_it() -> None:
    code = "import sys, siftlm.selection; assert not {'torch', 'siftlm.selection.tensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- what it refuses


def vectors(*shape: int, **changes: float) -> Any:
    made = torch.ones(shape)
    for at, value in changes.items():
        made[tuple(map(int, at[1:].split("_")))] = value
    return made


Q, X = torch.ones(2, 3), torch.ones(2, 4, 3)
WRONG = [
    ({"queries": [[1.0]]}, "queries must be a torch tensor, got list"),
    ({"queries": torch.ones(3)}, r"queries must have 2 or 3 dimensions, got shape \(3,\)"),
    ({"candidates": torch.ones(1, 2, 4, 3)}, r"candidates must have .* got shape \(1, 2, 4, 3\)"),
    ({"candidates": torch.ones(2, 4, 5)}, "queries have vectors of width 3, candidates of width 5"),
    ({"candidates": torch.ones(3, 4, 3)}, "2 queries but 3 sets"),
    ({"candidates": torch.ones(2, 0, 3)}, r"candidates is empty: shape \(2, 0, 3\)"),
    ({"candidates": torch.ones(0, 3)}, r"candidates is empty"),
    ({"candidates": X.double()}, "queries are torch.float32 and candidates torch.float64"),
    ({"queries": torch.ones(2, 3, dtype=torch.int64)}, "queries must hold real numbers .* torch.int64"),
    ({"candidates": X.to(torch.complex64)}, "candidates must hold real numbers"),
    ({"candidates": X[0].to_sparse()}, "candidates must be a dense tensor"),
    ({"candidates": X.to("meta")}, "queries are on cpu and candidates on meta"),
    (
        {"candidates": vectors(2, 4, 3, _1_2_0=torch.nan)},
        r"candidates \[1, 2\] is not finite: column 0 is nan",
    ),
    ({"candidates": vectors(4, 3, _2_1=torch.inf)}, r"candidates row 2 is not finite: column 1 is inf"),
    ({"queries": vectors(2, 3, _1_2=-torch.inf)}, r"queries \[1, 0\] is not finite: column 2 is -inf"),
    ({"queries": torch.zeros(2, 3)}, r"queries \[0, 0\] is all zeros"),
    ({"candidates": torch.zeros(2, 4, 3)}, r"candidates \[0, 0\] is all zeros"),
    ({"n": 5}, "n=5 is more than the 4 candidates"),
    ({"n": 9, "replacement": 2}, r"picked at most 2 times each can give \(8\)"),
    ({"n": 0}, "n must be a whole number ≥ 1"),
    ({"noise": 0}, "noise must be a number > 0"),
    ({"noise": torch.tensor(1.0)}, "noise must be a number"),
    ({"until": 2}, "until must be a number from 0 to 1"),
    ({"adaptive": -1}, "adaptive must be a number > 0"),
    ({"at_least": -1}, "at_least must be a whole number ≥ 0"),
    ({"seed": -1}, "seed must be a whole number ≥ 0"),
    ({"memory": 0}, "memory must be a whole number ≥ 1"),
    ({"form": "columns"}, "form must be"),
    ({"precision": torch.float16}, "precision must be"),
    ({"precision": torch.float32, "noise": 1e-4}, "noise=0.0001 is below 0.001 of the kernel's size"),
    ({"mask": torch.ones(2, 4)}, "mask must be bool"),
    ({"mask": torch.ones(3, 4, dtype=torch.bool)}, r"mask must be bool of shape \(2, 4\), got .* \(3, 4\)"),
    ({"mask": torch.zeros(4, dtype=torch.bool)}, "mask leaves no candidate to pick from"),
    ({"mask": torch.tensor([[True] * 4, [False] * 4])}, "mask leaves no candidate of prompt 1"),
    ({"mask": torch.tensor([[True] * 4, [True, False] * 2]), "n": 3}, "the 2 candidates of prompt 1"),
    (
        {"queries": torch.full((2, 3), 1e200, dtype=torch.float64), "candidates": X.double()},
        r"queries \[0, 0\].* overflows",
    ),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_it_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        tensors.select_many(**({"queries": Q, "candidates": X, "n": 2} | changes))


def test_a_gain_that_is_no_number_is_refused() -> None:
    huge = torch.full((2, 3), 1e150, dtype=torch.float64)
    with pytest.raises(InvalidInput, match="prompt 0: a gain is not a finite number"):
        select_many(huge, huge, 1, normalize=False)


def test_an_unknown_method_lists_the_known() -> None:
    with pytest.raises(UnknownName, match=r"did you mean 'sift'\? Known: itl, mm-itl, mmr, nearest, nn-f"):
        select_many(Q, X, 2, method="shift")
    with pytest.raises(UnknownName, match="dpp"):
        one(Q[0], X[0], 2, method="dpp")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"costs": [1.0] * 4}, Conflict, "costs does not apply to tensors; pass arrays"),
        ({"limits": Limits(sources=list("aabb"), source_cap=1)}, Conflict, "sources does not apply to tensors"),
        ({"prior": np.ones(4)}, Conflict, "prior does not apply to tensors"),
        ({"known": Q}, Conflict, "known does not apply to tensors"),
        ({"kernel": kernels.power(2)}, Conflict, "kernel does not apply to tensors"),
        ({"method": "mmr", "balance": 0.2}, InvalidInput, "on tensors there is no setting 'balance'"),
        ({"exclude": [4]}, InvalidInput, r"exclude\[0\] is 4, but candidates are numbered 0 … 3"),
        ({"min_gain": 2}, InvalidInput, "min_gain must be a number from 0 to 1"),
    ],
)
def test_what_needs_arrays_is_refused(settings: dict[str, Any], error: type[InvalidInput], message: str) -> None:
    with pytest.raises(error, match=message):
        select_many(Q, X, 2, **settings)


def test_arrays_stay_arrays() -> None:
    assert isinstance(select_many(Q.numpy(), X.numpy(), 2), list)
    assert isinstance(select_many(Q.numpy(), X, 2), list)
    assert isinstance(select_many(list(Q), X, 2), list)
    assert isinstance(select_many(Q, X, 2), tensors.BatchSelection)


def test_limits_are_those_of_select() -> None:
    queries, candidates = draw(4, 20, seed=1), draw(40, 20)
    mask = torch.ones(40, dtype=torch.bool)
    mask[7] = False
    for exclude in ([0, 1, 2], torch.tensor([0, 1, 2]), np.arange(40) < 3):
        found = select_many(
            torch.tensor(queries),
            torch.tensor(candidates),
            10,
            mask=mask,
            exclude=exclude,
            limits=Limits(replacement=2),
        )
        for query, mine in zip(queries, found, strict=True):
            assert_same(mine, select(query, candidates, 10, exclude=[0, 1, 2, 7], replacement=2))


def test_the_selections_explain_themselves() -> None:
    queries, candidates = draw(4, 3, 20, seed=1), draw(4, 40, 20)
    for normalize in (True, False):
        found = select_many(torch.tensor(queries), torch.tensor(candidates), 5, normalize=normalize)
        for query, own, mine in zip(queries, candidates, found, strict=True):
            why, theirs = mine.explain(), select(query, own, 5, normalize=normalize).explain()
            np.testing.assert_allclose(why.relevance, theirs.relevance)
            np.testing.assert_allclose(why.overlap, theirs.overlap, atol=1e-12)
            assert why.served.tolist() == theirs.served.tolist()


def test_a_batch_is_a_sequence() -> None:
    found = select_many(torch.tensor(draw(4, 20, seed=1)), torch.tensor(draw(40, 20)), 5)
    assert [one.indices.tolist() for one in found[1:3]] == found.indices[1:3].tolist()
    assert found[-1].indices.tolist() == found.indices[-1].tolist()
    with pytest.raises(IndexError):
        found[4]


# --- on the device that it is for


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_no_step_reads_a_number_or_leaves_the_device(name: str, shared: bool) -> None:
    # Tensors on "meta" have no numbers: whoever asks for one fails, and so does whoever mixes devices.
    from siftlm.selection.tensors.posterior import TensorCandidates, TensorPlan
    from siftlm.selection.tensors.steps import TensorChunk

    vectors, targets = torch.randn(5, 40, 20).to("meta"), torch.randn(5, 2, 20, dtype=torch.float64).to("meta")
    vectors = vectors[0] if shared else vectors
    mask, limits = torch.ones(5, 40, dtype=torch.bool).to("meta"), torch.arange(5).to("meta")
    for features, cap, n in itertools.product((True, False), (None, 1, 2), (7, 25)):
        plan = TensorPlan(
            method=name,
            looks_at=tensors.METHODS[name].looks_at,
            n=n,
            noise=0.01,
            rounding=1e-7,
            cap=cap,
            stopping=Stopping(adaptive=0.1, until=0.1) if n < 8 else Stopping(),
            seed=0,
            state=torch.float64,
            products=torch.float32,
            normalize=True,
            features=features,
            gram=not features,
        )
        with torch.inference_mode():
            candidates = TensorCandidates(vectors, vectors.norm(dim=-1).double(), None, plan)
            picks = TensorChunk(plan, candidates, targets, mask).run(limits if n < 8 else None)
        assert all(tensor.device.type == "meta" for tensor in picks)
        assert picks.indices.shape == (5, n)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_cuda_makes_the_same_picks(name: str) -> None:
    for shape in ((64, 200, 48), (3000, 48)):
        queries, candidates = torch.tensor(draw(64, 48, seed=1)), torch.tensor(draw(*shape))
        here = select_many(queries, candidates, 30, method=name)
        there = select_many(queries.cuda(), candidates.cuda(), 30, method=name)
        assert there.indices.device.type == "cuda"
        assert here.indices.tolist() == there.indices.tolist()
        torch.testing.assert_close(there.gains.cpu(), here.gains, atol=1e-9, rtol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_no_step_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = importlib.import_module("siftlm.selection.tensors.steps")
    run = steps.TensorChunk.run

    def watched(self: Any, limits: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return run(self, limits)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    queries, candidates = torch.tensor(draw(8, 48, seed=1)).cuda(), torch.tensor(draw(8, 100, 48)).cuda()
    monkeypatch.setattr(steps.TensorChunk, "run", watched)
    for name in sorted(set(NAMES) - {"random"}):
        for form in ("rows", "features"):
            select_many(queries, candidates, 20, method=name, form=form)


@pytest.mark.parametrize("normalize", [None, 1, "no"])
def test_normalize_is_yes_or_no(normalize: Any) -> None:
    queries, candidates = torch.tensor(draw(2, 8)), torch.tensor(draw(20, 8))
    with pytest.raises(InvalidInput, match="normalize must be True or False"):
        select_many(queries, candidates, 3, normalize=normalize)
