"""Bad input: an error of ours that names what is wrong, and never a warning or a traceback of numpy's.

Warnings are errors in this suite, so a call that warns fails here too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siftlm import Gram, kernels, methods, select
from siftlm.errors import Conflict, InvalidInput, SiftlmError, UnknownName

RNG = np.random.default_rng(0)
QUERY = RNG.normal(size=5)
CANDIDATES = RNG.normal(size=(8, 5))


def refuses(
    *needles: str, query: Any = QUERY, candidates: Any = CANDIDATES, n: Any = 3, **settings: Any
) -> SiftlmError:
    """The call raises InvalidInput (so also ValueError), and its message holds every needle."""
    with pytest.raises(InvalidInput) as caught:
        select(query, candidates, n, **settings)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, SiftlmError)
    message = str(caught.value)
    for needle in needles:
        assert needle in message, f"{needle!r} is not in {message!r}"
    return caught.value


def with_entry(row: int, column: int, value: float, dtype: Any = np.float64) -> Any:
    made = CANDIDATES.astype(dtype)
    made[row, column] = value
    return made


# --- numbers that are none


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kernel", [None, kernels.linear(), kernels.centred(), kernels.power(2)])
def test_not_finite(dtype: Any, value: float, normalize: bool, kernel: Any) -> None:
    bad = with_entry(3, 2, value, dtype)
    settings: dict[str, Any] = {"normalize": normalize, "kernel": kernel}
    refuses("candidates row 3", "column 2", str(value), candidates=bad, **settings)
    refuses("query row 0", "column 2", str(value), query=bad[3], **settings)
    refuses("query row 3", "column 2", query=bad, **settings)
    refuses("known row 3", "column 2", known=bad, **settings)


@pytest.mark.parametrize("method", methods())
def test_not_finite_in_any_method(method: str) -> None:
    options: dict[str, Any] = {}
    if method in {"eig", "information-density"}:
        options["probabilities"] = np.full((8, 2), 0.5)
    if method == "eig":
        options["target_probabilities"] = np.full((1, 2), 0.5)
    query = None if method in {"max-entropy", "min-margin", "least-confidence"} else QUERY
    refuses("candidates row 1", "nan", query=query, candidates=with_entry(1, 0, np.nan), method=method, **options)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_zero_rows(dtype: Any) -> None:
    zero = CANDIDATES.astype(dtype)
    zero[4] = 0
    refuses("candidates row 4", "zero", "normalize=False", candidates=zero)
    refuses("query row 0", "zero", query=np.zeros(5, dtype))
    refuses("known row 4", "zero", known=zero)
    assert 4 not in select(QUERY, zero, 5, normalize=False).indices


def test_all_candidates_zero_tell_nothing() -> None:
    picked = select(QUERY, np.zeros((3, 5)), 2, normalize=False)
    assert picked.gains.tolist() == [0, 0]


@pytest.mark.parametrize("value", [1e300, -1e300, 1.7e308])
def test_rows_too_long_for_float64(value: float) -> None:
    for normalize in (True, False):
        refuses("candidates row 3", "overflow", candidates=with_entry(3, 2, value), normalize=normalize)
        refuses("query row 0", "overflow", query=with_entry(3, 2, value)[3], normalize=normalize)
        refuses("known row 3", "overflow", known=with_entry(3, 2, value), normalize=normalize)


@pytest.mark.parametrize("length", [1e80, 1e120, 1e130])
def test_lengths_whose_products_overflow(length: float) -> None:
    """Fine as directions; as lengths that count, their squared products are beyond a float."""
    assert len(select(QUERY * length, CANDIDATES * length, 3)) == 3
    refuses("overflow", query=QUERY * length, candidates=CANDIDATES * length, normalize=False)


@pytest.mark.parametrize("power", [-130, -45, -35, -25, -10, 10, 20, 30, 38])
@pytest.mark.parametrize("noise", [1e-6, 0.1])
def test_lengths_that_float32_cannot_square(power: int, noise: float) -> None:
    """1e30 squared is beyond float32, but the row is fine."""
    expected = select(QUERY, CANDIDATES.astype(np.float32), 5, noise=noise)
    factors = np.full((8, 1), float(10.0**power))
    dtype = np.float32 if power > -45 else np.float64
    with np.errstate(under="ignore"):
        long = (CANDIDATES.astype(np.float32) / 4 * factors).astype(dtype)
    if power < -37 and dtype == np.float32:
        exact = select(QUERY, long.astype(np.float64), 5, noise=noise)
        expected = exact
    picked = select(QUERY, long, 5, noise=noise)
    assert picked.indices.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(picked.uncertainty, expected.uncertainty, atol=1e-5)


@pytest.mark.parametrize("length", [1e-150, 1e-155, 1e-160, 1e-165, 1e-200, 1e-300, 5e-324])
def test_subnormal_squares(length: float) -> None:
    """Too short to be squared: right answers or an error, never a silently wrong direction."""
    try:
        picked = select(QUERY, CANDIDATES * length, 5)
    except InvalidInput as error:
        assert "candidates row" in str(error)  # noqa: PT017
    else:
        assert picked.indices.tolist() == select(QUERY, CANDIDATES, 5).indices.tolist()
        np.testing.assert_allclose(picked.uncertainty, select(QUERY, CANDIDATES, 5).uncertainty, atol=1e-9)


def test_one_bad_row_among_a_hundred_thousand() -> None:
    many = np.ones((100_000, 4), np.float32)
    many[77_777, 3] = np.nan
    refuses("candidates row 77777", "column 3", query=np.ones(4), candidates=many)


# --- shapes


def test_widths() -> None:
    refuses("query", "width 4", "expected 5", query=np.ones(4))
    refuses("query", "width 6", "expected 5", query=np.ones((2, 6)))
    refuses("known", "width 3", "expected 5", known=np.ones((2, 3)))


def test_dimensions() -> None:
    refuses("candidates", "(2, 3, 4)", candidates=np.ones((2, 3, 4)))
    refuses("candidates", "()", candidates=np.float64(3))
    refuses("candidates", "()", candidates=5.0)
    refuses("query", "(1, 2, 5)", query=np.ones((1, 2, 5)))
    refuses("query", "()", query=3.0)
    refuses("known", "(1, 2, 5)", known=np.ones((1, 2, 5)))


@pytest.mark.parametrize("empty", [np.zeros((0, 5)), np.zeros((0, 0)), [], [[]], np.zeros((3, 0)), np.zeros(0)])
def test_empty(empty: Any) -> None:
    refuses("candidates", candidates=empty)
    refuses("query", query=empty)


def test_an_empty_pool_after_excluding() -> None:
    refuses("exclude", exclude=list(range(8)))
    refuses("exclude", exclude=np.ones(8, bool))


# --- types


@pytest.mark.parametrize(
    "bad",
    [
        CANDIDATES + 1j,
        CANDIDATES.astype(str),
        CANDIDATES.astype(object),
        [["a", "b", "c", "d", "e"]],
        [[1.0, 2.0, 3.0, 4.0, None]],
        [[1, 2, 3, 4, 10**400]],
        [[1.0, 2.0], [3.0]],
        [[1.0] * 5, [1.0] * 4],
        "text",
        b"bytes",
        {"a": 1},
        {1.0, 2.0},
        object(),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        np.zeros(3, dtype=[("x", float)]),
        lambda: None,
        ["several", "texts"],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_array_of_numbers(bad: Any) -> None:
    refuses("candidates", candidates=bad)
    refuses("query", query=bad)
    refuses("known", known=bad)
    with pytest.raises(InvalidInput, match="gram"):
        Gram(bad)


def test_none_for_candidates() -> None:
    refuses("candidates", candidates=None)


def test_masked_entries_are_not_numbers() -> None:
    masked = np.ma.masked_array(CANDIDATES, mask=np.zeros_like(CANDIDATES, dtype=bool))
    whole = select(QUERY, masked, 3)
    assert whole.indices.tolist() == select(QUERY, CANDIDATES, 3).indices.tolist()
    masked[5, 1] = np.ma.masked
    refuses("candidates", "mask", candidates=masked)
    refuses("query", "mask", query=masked)
    refuses("known", "mask", known=masked)


# --- arrays that look odd and are fine


def odd_layouts(tmp_path: Path) -> dict[str, Any]:
    on_disk = np.memmap(tmp_path / "candidates", dtype=np.float64, mode="w+", shape=CANDIDATES.shape)
    on_disk[:] = CANDIDATES
    wide = np.zeros((16, 10))
    wide[::2, ::2] = CANDIDATES
    packed = np.zeros(8, dtype=[("skip", np.int8), ("x", np.float64, 5)])
    packed["x"] = CANDIDATES
    read_only = CANDIDATES.copy()
    read_only.flags.writeable = False
    return {
        "memmap": on_disk,
        "fortran": np.asfortranarray(CANDIDATES),
        "strided": wide[::2, ::2],
        "reversed": CANDIDATES[::-1][::-1],
        "negative strides": np.ascontiguousarray(CANDIDATES[::-1, ::-1])[::-1, ::-1],
        "unaligned": packed["x"],
        "big-endian": CANDIDATES.astype(">f8"),
        "little-endian": CANDIDATES.astype("<f8"),
        "list": CANDIDATES.tolist(),
        "tuple": tuple(map(tuple, CANDIDATES.tolist())),
        "list of arrays": list(CANDIDATES),
        "long double": CANDIDATES.astype(np.longdouble),
        "read-only": read_only,
        "matrix": CANDIDATES.view(np.matrix),
    }


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_layouts(tmp_path: Path) -> None:
    expected = select(QUERY, CANDIDATES, 6)
    for name, candidates in odd_layouts(tmp_path).items():
        for kernel in (None, kernels.power(1)):
            picked = select(QUERY, candidates, 6, kernel=kernel)
            assert picked.indices.tolist() == expected.indices.tolist(), name
            np.testing.assert_allclose(picked.uncertainty, expected.uncertainty, atol=1e-12, err_msg=name)
        asked = select(candidates, CANDIDATES, 6, known=candidates)
        again = select(CANDIDATES, CANDIDATES, 6, known=CANDIDATES)
        np.testing.assert_allclose(asked.uncertainty, again.uncertainty, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("dtype", [">f4", ">f2", "<f2"])
def test_byte_orders_of_short_floats(dtype: str) -> None:
    native = np.dtype(dtype).newbyteorder("=")
    picked = select(QUERY, CANDIDATES.astype(dtype), 6)
    assert picked.indices.tolist() == select(QUERY, CANDIDATES.astype(native), 6).indices.tolist()


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int64, np.uint64])
def test_whole_numbers_are_numbers(dtype: Any) -> None:
    candidates = np.eye(5)[[0, 1, 2]] + np.eye(5)[[1, 2, 3]]
    picked = select([1, 2, 3, 0, 0], candidates.astype(dtype), 2)
    assert picked.indices.tolist() == select([1.0, 2, 3, 0, 0], candidates, 2).indices.tolist()


def test_a_single_candidate_may_be_flat() -> None:
    assert select(QUERY, CANDIDATES[0], 1).indices.tolist() == [0]


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(CANDIDATES)
    expected = select(QUERY, CANDIDATES, 4)
    assert select(torch.tensor(QUERY), tensor, 4).indices.tolist() == expected.indices.tolist()
    assert select(QUERY, tensor.half(), 4).indices.dtype == np.int64
    assert select(QUERY, tensor, 4, exclude=torch.tensor([7])).indices.max() < 7
    learning = tensor.clone().requires_grad_()
    refuses("candidates", candidates=learning)
    refuses("query", query=learning)
    refuses("candidates", candidates=tensor.to(torch.bfloat16))


# --- n, noise and other numbers


@pytest.mark.parametrize("n", [0, -1, -(10**30), 9, 10**30, 2.0, 2.5, np.nan, "3", True, False, [3], np.array([3]), 1j])
def test_n(n: Any) -> None:
    refuses("n", n=n)


def test_n_larger_than_the_pool() -> None:
    refuses("n=9", "8 candidates", "replacement=True", n=9)
    refuses("n=9", "6 candidates", n=9, exclude=[0, 1])
    refuses("n=9", "once", "8", n=9, replacement=False)
    refuses("n=17", "2 times", "16", n=17, replacement=2)
    assert len(select(QUERY, CANDIDATES, 9, replacement=True)) == 9
    assert len(select(QUERY, CANDIDATES, 16, replacement=2)) == 16


@pytest.mark.parametrize("n", [np.int64(3), np.uint8(3), np.int32(3)])
def test_whole_numbers_of_numpy(n: Any) -> None:
    assert len(select(QUERY, CANDIDATES, n, at_least=n)) == 3


@pytest.mark.parametrize(
    "noise",
    [0, 0.0, -0.0, -1, -1e-9, np.nan, np.inf, -np.inf, True, False, "0.1", None, [0.1], 1j, np.array([0.1])],
)
def test_noise(noise: Any) -> None:
    refuses("noise", noise=noise)


@pytest.mark.parametrize("noise", [1e-8, np.float32(0.1), np.float64(0.1), 1, 1000, np.int64(2)])
def test_noise_that_is_fine(noise: Any) -> None:
    assert select(QUERY, CANDIDATES, 3, noise=noise).noise == float(noise)


@pytest.mark.parametrize("noise", [9e-13, 1e-16, 1e-300, 5e-324])
@pytest.mark.parametrize("name", ["sift", "sift-fast", "itl", "uncertainty", "undirected-vtl"])
def test_noise_that_rounding_drowns(name: str, noise: float) -> None:
    """Picks made of rounding look like any others, so they are refused rather than made."""
    refuses("drowns in rounding", noise=noise, method=name)
    assert len(select(QUERY, CANDIDATES, 3, noise=noise, method="nearest")) == 3  # needs no λ to pick


@pytest.mark.parametrize("noise", [1e-12, 1e30, 1e300])
def test_absurd_noise_still_begins_with_the_nearest(noise: float) -> None:
    picked = select(QUERY, CANDIDATES, 3, noise=noise)
    cosine = np.abs(CANDIDATES @ QUERY) / np.linalg.norm(CANDIDATES, axis=1)
    assert picked.indices[0] == cosine.argmax()
    assert np.isfinite(picked.gains).all()
    assert np.isfinite(picked.uncertainty).all()


@pytest.mark.parametrize("name", ["adaptive", "until", "min_gain", "min_growth"])
@pytest.mark.parametrize("value", [-1, np.nan, np.inf, True, "1", [1]])
def test_stopping_numbers(name: str, value: Any) -> None:
    refuses(name, **{name: value})


def test_stopping_ranges() -> None:
    refuses("adaptive", adaptive=0)
    refuses("until", "from 0 to 1", until=1.5)
    refuses("min_gain", "from 0 to 1", min_gain=1.5)
    refuses("min_growth", "from 0 to 1", min_growth=-0.1)
    for value in (-1, 1.5, True, "1", None):
        refuses("at_least", at_least=value)


def test_stopping_needs_a_prompt() -> None:
    for rule in ({"adaptive": 1.0}, {"until": 0.5}, {"min_gain": 0.1}):
        refuses("query", query=None, method="uncertainty", **rule)


@pytest.mark.parametrize("replacement", [0, -1, 1.5, "yes", np.nan, [2]])
def test_replacement(replacement: Any) -> None:
    refuses("replacement", replacement=replacement)


@pytest.mark.parametrize("seed", [-1, 1.5, "x", None, True])
@pytest.mark.parametrize("method", ["random", "k-means++", "sift"])
def test_seed(seed: Any, method: str) -> None:
    refuses("seed", seed=seed, method=method)


@pytest.mark.parametrize("normalize", ["no", 2, None, np.ones(3)])
def test_normalize_is_yes_or_no(normalize: Any) -> None:
    refuses("normalize", normalize=normalize)


# --- per-item settings


@pytest.mark.parametrize("exclude", [[-1], [3, -1], [8], [0, 10**20], [2**63], np.array([-1, 0])])
def test_excluded_indices(exclude: Any) -> None:
    error = refuses("exclude", "0 … 7", exclude=exclude)
    assert re.search(r"exclude\[\d\] is -?\d+", str(error))


@pytest.mark.parametrize(
    "exclude",
    [
        [0.0],
        ["a"],
        [[0, 1]],
        np.ones(7, bool),
        np.ones((8, 1), bool),
        [True],
        [[1], [1, 2]],
        {1, 2},
        "0",
        3,
        [None],
    ],
)
def test_exclude_of_the_wrong_kind(exclude: Any) -> None:
    refuses("exclude", exclude=exclude)


def test_nothing_excluded() -> None:
    for nothing in ([], np.zeros(0, int), np.zeros(8, bool), (), np.zeros(0)):
        assert len(select(QUERY, CANDIDATES, 3, exclude=nothing)) == 3


@pytest.mark.parametrize("name", ["costs", "prior"])
@pytest.mark.parametrize(
    "value",
    [
        np.ones(7),
        np.ones(9),
        np.ones((8, 1)),
        1.0,
        [],
        ["a"] * 8,
        [None] * 8,
        np.ones(8) + 1j,
        [[1], [1, 2]] * 4,
        "cheap",
        {},
    ],
)
def test_per_item_numbers_of_the_wrong_kind(name: str, value: Any) -> None:
    refuses(name, **{name: value})


@pytest.mark.parametrize("name", ["costs", "prior"])
@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, -np.inf])
def test_per_item_numbers_out_of_range(name: str, bad: float) -> None:
    values = np.ones(8)
    values[5] = bad
    refuses(f"{name}[5]", str(bad), **{name: values})


def test_costs_are_positive() -> None:
    refuses("costs[2]", "> 0", costs=[1, 1, 0, 1, 1, 1, 1, 1])
    assert 2 not in select(QUERY, CANDIDATES, 7, prior=[1, 1, 0, 1, 1, 1, 1, 1], replacement=False).indices


@pytest.mark.parametrize("value", [1e-320, 1e-300, 1e300, 1.7e308])
@pytest.mark.parametrize("name", ["costs", "prior"])
def test_extreme_weights(value: float, name: str) -> None:
    """They may decide everything, but they break nothing."""
    weights = np.ones(8)
    weights[3] = value
    picked = select(QUERY, CANDIDATES, 8, replacement=False, **{name: weights})
    assert sorted(picked.indices.tolist()) == list(range(8))
    small = value < 1
    assert picked.indices[0 if small == (name == "costs") else -1] == 3


def test_prior_functions_that_misbehave() -> None:
    refuses("prior", prior=lambda similarity: similarity[0] - 5)
    refuses("prior", prior=lambda similarity: np.ones(3))
    refuses("prior", prior=lambda similarity: None)
    refuses("prior", prior=lambda similarity: np.full(8, np.nan))
    refuses("query", query=None, method="uncertainty", prior=kernels.relevance())


def test_sources() -> None:
    for value in (
        ["a"] * 7,
        ["a"] * 9,
        [],
        "abc",
        3,
        np.ones((8, 2)),
        [["a"]] * 8,
        [{}] * 8,
        np.float64(1),
        {1, 2},
    ):
        refuses("sources", sources=value, source_cap=1)
    for cap in (0, -1, 1.5, True, "1", np.nan):
        refuses("source_cap", sources=["a"] * 8, source_cap=cap)
    refuses("sources", "source_cap", sources=["a"] * 8)
    refuses("sources", "source_cap", source_cap=1)


def test_budget() -> None:
    refuses("budget", "costs", budget=3.0)
    for value in (0, -1, np.nan, np.inf, True, "3", [3]):
        refuses("budget", costs=np.ones(8), budget=value)


# --- methods and their options


def test_unknown_methods() -> None:
    error = refuses("unknown method 'shift'", "did you mean 'sift'?", ", ".join(sorted(methods())), method="shift")
    assert isinstance(error, UnknownName)
    refuses("did you mean 'nearest'?", method="Nearest")
    refuses("did you mean 'undirected-vtl'?", method="undirected_vtl")
    for name in ("", " ", "sift ", "zzzzzz", None, 3, ["sift"], b"sift"):
        refuses("unknown method", "sift", method=name)


def test_functions_that_are_no_methods() -> None:
    refuses("selection.method", method=lambda problem: iter(()))
    refuses("selection.method", method=print)


def test_unknown_options() -> None:
    refuses("'sift'", "'balance'", method="sift", balance=0.3)
    refuses("'mmr'", "'gamma'", "balance", method="mmr", gamma=0.3)
    refuses("'sift'", "'lambda_'", lambda_=0.1)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("mmr", {"balance": 2.0}),
        ("mmr", {"balance": -0.1}),
        ("mmr", {"balance": "x"}),
        ("max-sum", {"balance": np.nan}),
        ("dpp", {"balance": -1}),
        ("cover", {"balance": 3}),
        ("cover", {"gamma": 0}),
        ("cover", {"gamma": 2}),
        ("hull", {"max_iter": -1}),
        ("hull", {"max_iter": 1.5}),
        ("hull", {"tolerance": -1}),
        ("eig", {}),
        ("eig", {"probabilities": np.full((8, 2), 0.5)}),
        ("eig", {"probabilities": np.full((7, 2), 0.5), "target_probabilities": np.full((1, 2), 0.5)}),
        ("eig", {"probabilities": np.full((8, 2), 0.5), "target_probabilities": np.full((1, 3), 1 / 3)}),
        ("eig", {"probabilities": np.full((8, 2), 0.5), "target_probabilities": np.full((2, 2), 0.5)}),
        ("information-density", {}),
        ("information-density", {"probabilities": np.full((8, 2), 0.6)}),
        ("information-density", {"probabilities": np.full((8, 2), 0.5), "beta": -1}),
        ("information-density", {"probabilities": "x"}),
    ],
)
def test_options_out_of_range(method: str, options: dict[str, Any]) -> None:
    refuses(method=method, **options)


@pytest.mark.parametrize("method", ["max-entropy", "min-margin", "least-confidence"])
def test_what_is_no_distribution(method: str) -> None:
    good = np.full((4, 3), 1 / 3)
    for bad in ([0.5, 0.5, 0.5], [1.5, -0.5, 0.0], [0.0, 0.0, 0.0], [np.nan, 0.5, 0.5]):
        rows = good.copy()
        rows[2] = bad
        refuses("candidates row 2", query=None, candidates=rows, method=method)
    refuses("softmax", query=np.ones(3), candidates=good, method=method)
    refuses("softmax", query=None, candidates=good, method=method, known=good)
    refuses("softmax", query=None, candidates=good, method=method, kernel=kernels.linear())
    refuses("softmax", query=None, candidates=Gram(np.eye(3)), method=method)


@pytest.mark.parametrize("method", ["mmr", "max-sum", "cover", "ctl", "eig"])
def test_weights_on_gains_that_may_be_negative(method: str) -> None:
    for setting in ({"prior": np.ones(8)}, {"costs": np.ones(8)}):
        assert isinstance(refuses(method, method=method, **setting), Conflict)


def test_limits_on_a_method_that_decides_at_once() -> None:
    settings: list[dict[str, Any]] = [
        {"prior": np.ones(8)},
        {"costs": np.ones(8)},
        {"sources": ["a"] * 8, "source_cap": 1},
        {"replacement": False},
        {"replacement": 2},
    ]
    for setting in settings:
        assert isinstance(refuses("hull", method="hull", **setting), Conflict)


# --- kernels and Gram matrices


def test_gram_matrices() -> None:
    good = np.eye(3) + 0.1

    def gram(needle: str, values: Any, targets: Any = None) -> None:
        with pytest.raises(InvalidInput) as caught:
            Gram(values, targets)
        assert needle in str(caught.value)

    def changed(row: int, column: int, value: float) -> Any:
        made = good.copy()
        made[row, column] = value
        return made

    gram("not symmetric: [0, 2]", changed(0, 2, 0.5))
    gram("gram[1, 1] is -1", changed(1, 1, -1))
    gram("gram row 1 is not finite: column 2 is nan", changed(1, 2, np.nan))
    gram("square", np.ones((3, 4)))
    gram("square", np.ones(3))
    gram("(2, 2, 2)", np.ones((2, 2, 2)))
    gram("empty", np.zeros((0, 0)))
    gram("targets", good, np.ones((2, 3)))
    gram("targets[0, 0]", good, -np.eye(2))
    gram("not symmetric", 1e-12 * changed(0, 2, 0.5))


def test_gram_and_query_belong_together() -> None:
    gram = Gram(np.eye(3))
    refuses("query", "(1, 4)", "(1, 3)", query=np.ones(4), candidates=gram, n=1)
    refuses("query row 0", query=[1.0, np.nan, 0], candidates=gram, n=1)
    refuses("targets", "(2, 2)", query=np.ones((2, 3)), candidates=gram, n=1)
    refuses("targets", "(2, 2)", query=np.ones((2, 3)), candidates=Gram(np.eye(3), np.eye(3)), n=1)
    refuses("known", query=np.ones(3), candidates=gram, n=1, known=np.eye(3))
    refuses("kernel", query=np.ones(3), candidates=gram, n=1, kernel=kernels.power(2))


@pytest.mark.parametrize(
    "kernel",
    [
        lambda x, y: np.ones((2, 2)),
        lambda x, y: np.ones(3),
        lambda x, y: 1.0,
        lambda x, y: None,
        lambda x, y: "x",
        lambda x, y: (x @ y.T) * np.nan,
        lambda x, y: (x @ y.T) * np.inf,
        lambda x, y: (x @ y.T) + 1j,
        lambda x, y: -(x @ y.T),
        lambda x, y: [[object()] * len(y)] * len(x),
        lambda x, y: [[1.0], [1.0, 2.0]],
    ],
)
def test_kernels_that_misbehave(kernel: Any) -> None:
    with np.errstate(invalid="ignore"):
        refuses("kernel", kernel=kernel)


@pytest.mark.parametrize("kernel", ["linear", 3, [1], kernels])
def test_what_is_no_kernel(kernel: Any) -> None:
    refuses("kernel", kernel=kernel)


def test_a_diagonal_that_rounding_takes_below_zero_is_zero() -> None:
    def kernel(x: Any, y: Any) -> Any:
        return np.maximum(x @ y.T, 0) ** 2 - 1e-17 * (x[:, :1] < 0) * (np.abs(x @ y.T) > 2)

    def distances(x: Any, y: Any) -> Any:  # the linear kernel about the first vector, by way of distances
        origin = CANDIDATES[0] / np.linalg.norm(CANDIDATES[0])

        def squared(u: Any, v: Any) -> Any:
            return ((u[:, None] - v[None]) ** 2).sum(axis=2)

        return (squared(x, origin[None]) + squared(origin[None], y) - squared(x, y)) / 2 - 1e-17

    assert len(select(QUERY, CANDIDATES, 4, kernel=distances)) == 4
    assert len(select(QUERY, CANDIDATES, 4, kernel=kernel)) == 4


def test_kernel_settings() -> None:
    for make, bad in (
        (kernels.power, (0, -1, 1.5, "2", True, np.nan)),
        (kernels.plus_constant, (-1, np.nan, np.inf, "1", True)),
        (kernels.rbf, (0, -1, np.nan, np.inf, "1", True)),
        (kernels.relevance, (-1, np.nan, "1")),
    ):
        for value in bad:
            with pytest.raises(InvalidInput):
                make(value)
    with pytest.raises(InvalidInput, match="floor"):
        kernels.relevance(1.0, -1.0)
    with pytest.raises(InvalidInput, match="mean"):
        kernels.centred([np.nan, 1])
    refuses("mean", kernel=kernels.centred([1.0, 2.0]))


@pytest.mark.parametrize("base", [kernels.centred(), "linear", 3])
def test_kernels_on_top_of_what_is_no_function(base: Any) -> None:
    with pytest.raises(InvalidInput, match="base"):
        kernels.power(2, base)
    with pytest.raises(InvalidInput, match="base"):
        kernels.plus_constant(1.0, base)


# --- a method of one's own that misbehaves


def test_a_gain_that_is_nan_is_named() -> None:
    from siftlm.selection import Problem, Steps, method

    @method("broken", "gives NaN")
    def broken(problem: Problem) -> Steps:
        """NaN"""
        while True:
            yield np.full(problem.space.size, np.nan)

    refuses("NaN", method=broken)


# --- numbers that are none


def test_a_number_beyond_float64() -> None:
    for noise in (10**400, -(10**400), 10**5000):  # the last is too long to be printed, too
        refuses("noise must be finite", noise=noise)


def test_truths_are_no_costs() -> None:
    refuses("costs", "mask", costs=np.ones(8, bool))
    assert len(select(QUERY, CANDIDATES, 2, prior=np.arange(8) < 4)) == 2
