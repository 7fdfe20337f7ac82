"""Labels for scikit-learn's digits, chosen by the network that learns from them, against labels at random.

    pip install 'siftlm[torch,plot]' scikit-learn
    python examples/active_digits.py --into digits                 # some minutes; ends with a table
    python examples/active_digits.py --into digits-quick --seeds 2 --rounds 5

Two tasks, offline. ``all``: a small network is to know all ten digits. ``some``: only 3, 5, 8 and 9 matter, and the
loader is shown unlabelled images of them as its target. In each round the loader chooses ``--batch`` images of the pool
with the current network's embeddings, their labels are looked up, and the network learns all labels so far. Embeddings
are the hidden layer, or the gradients of the last layer for the class that the network finds likeliest. Writes
``curves.json`` and a figure for each task; intervals are 95 % bootstrap intervals over seeds, of paired differences.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from siftlm.evaluation.statistics import mean
from siftlm.integrations.data_loader import ActiveDataLoader, loss_gradients

SOME = (3, 5, 8, 9)
TEST_IMAGES, TARGET_IMAGES = 500, 100
# Method, and the method of the network that embeds.
WAYS = {
    "random": ("random", "hidden"),
    "hidden layer": ("undirected-vtl", "hidden"),
    "gradients": ("undirected-vtl", "gradients"),
    "hidden layer, target": ("sift", "hidden"),
    "gradients, target": ("sift", "gradients"),
}
TASKS = {"all": ("random", "hidden layer", "gradients"), "some": tuple(WAYS)}
Examples = tuple[Tensor, Tensor]
"""Inputs and their labels"""
Problem = tuple[Examples, Tensor, Examples]
"""The pool, inputs of the target, and the test"""


class Network(nn.Module):
    """One hidden layer."""

    def __init__(self, width: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.ReLU())
        self.classes = nn.Linear(hidden, classes)

    def gradients(self, inputs: Tensor) -> Tensor:
        hidden = self.hidden(inputs)
        return loss_gradients(hidden, self.classes(hidden), width=256)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classes(self.hidden(inputs))


def main() -> None:
    compare(digits, lambda: Network(64, 10, hidden=64), options(__doc__).parse_args())


def digits(task: str, seed: int) -> Problem:
    """Images that are in neither target nor test are the pool."""
    pixels, numbers = all_digits()
    order = np.random.default_rng(seed).permutation(len(numbers))
    images, labels = torch.tensor(pixels[order] / 16, dtype=torch.float32), torch.tensor(numbers[order])
    wanted = torch.isin(labels, torch.tensor(SOME)) if task == "some" else torch.ones(len(labels), dtype=torch.bool)
    test, rest = torch.arange(TEST_IMAGES), torch.arange(TEST_IMAGES, len(labels))
    test, shown = test[wanted[test]], rest[wanted[rest]][:TARGET_IMAGES]
    pool = rest[~torch.isin(rest, shown)]
    return (images[pool], labels[pool]), images[shown], (images[test], labels[test])


@cache
def all_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


# --- the comparison, which active_text.py uses too


def options(text: str | None) -> argparse.ArgumentParser:
    """The command line."""
    ask = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--into", type=Path, required=True, help="folder for curves.json and the figures")
    ask.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    ask.add_argument("--seeds", type=int, default=20)
    ask.add_argument("--first-seed", type=int, default=0)
    ask.add_argument("--rounds", type=int, default=20)
    ask.add_argument("--batch", type=int, default=10, help="labels in each round")
    ask.add_argument("--steps", type=int, default=60, help="gradient steps in each round, on all labels so far")
    ask.add_argument("--noise", type=float, default=0.01)
    ask.add_argument("--known-limit", type=int, help="of the loader: 0 to condition on no earlier batch")
    ask.add_argument("--figure", choices=["svg", "png"], default="svg")
    return ask


def compare(problem: Callable[[str, int], Problem], make: Callable[[], nn.Module], given: argparse.Namespace) -> None:
    """Learn in each way with each seed, and write what came out."""
    torch.set_num_threads(1)
    given.into.mkdir(parents=True, exist_ok=True)
    record = {"settings": {name: value for name, value in vars(given).items() if name != "into"}, "tasks": {}}
    for task in given.tasks:
        curves = {way: [] for way in TASKS[task]}
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            for way, found in curves.items():
                torch.manual_seed(seed)
                found.append(learn(problem(task, seed), make(), way, seed, given))
        record["tasks"][task] = summary(task, curves, given)
        draw(record["tasks"][task], given.into / f"{task}.{given.figure}")
    (given.into / "curves.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


def learn(problem: Problem, network: nn.Module, way: str, seed: int, given: argparse.Namespace) -> list[float]:
    """Test accuracy after each round, in percent."""
    pool, target, (test_inputs, test_labels) = problem
    method, embed = WAYS[way]
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, weight_decay=1e-4)
    loader = ActiveDataLoader(
        torch.utils.data.TensorDataset(*pool),
        given.batch,
        model=network,
        embed=embed,
        target=target if method == "sift" else None,
        method=method,
        normalize=embed == "hidden",  # the length of a gradient says how unsure the network is
        noise=given.noise,
        known_limit=given.known_limit,
        seed=seed,
    )
    inputs, labels, accuracies = pool[0][:0], pool[1][:0], []
    for _, (new_inputs, new_labels) in zip(range(given.rounds), loader, strict=False):
        inputs, labels = torch.cat([inputs, new_inputs]), torch.cat([labels, new_labels])
        for _ in range(given.steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs), labels).backward()
            optimizer.step()
        with torch.no_grad():
            right = network(test_inputs).argmax(1) == test_labels
        accuracies.append(100 * float(right.float().mean()))
    return accuracies


def summary(task: str, curves: dict[str, list[list[float]]], given: argparse.Namespace) -> dict:
    """Mean accuracies, and the paired differences to random: of the whole curve, and after the last round."""
    arrays = {way: np.array(seeds) for way, seeds in curves.items()}
    labels = [given.batch * (1 + at) for at in range(given.rounds)]
    found = {"labels": labels, "ways": {}}
    print(f"\n{task}: mean accuracy over the curve, and after {labels[-1]} labels; {given.seeds} seeds")
    for way, accuracies in arrays.items():
        differences = accuracies - arrays["random"]
        curve, last = mean(differences.mean(axis=1)), mean(differences[:, -1])
        found["ways"][way] = {
            "accuracy": np.round(accuracies.mean(axis=0), 2).tolist(),
            "interval": [mean(column).to_dict()["interval"] for column in accuracies.T],
            "curve_less_random": curve.to_dict(),
            "last_less_random": last.to_dict(),
            "seeds": np.round(accuracies, 2).tolist(),
        }
        line = f"{way:>20} {accuracies.mean():6.2f} {accuracies[:, -1].mean():6.2f}"
        if way != "random":
            line += f"   less random: {curve.value:+.2f} [{curve.low:.2f}, {curve.high:.2f}]"
            line += f"  and {last.value:+.2f} [{last.low:.2f}, {last.high:.2f}]"
        print(line, flush=True)
    return found


def draw(found: dict, path: Path) -> None:
    """Mean accuracy over labels, and its interval."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams.update({"svg.hashsalt": path.name, "svg.fonttype": "none"})  # a small file, the same each time
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 3.4), layout="constrained")
    for way, own in found["ways"].items():
        [line] = axes.plot(found["labels"], own["accuracy"], label=way)
        low, high = np.array(own["interval"], dtype=float).T
        axes.fill_between(found["labels"], low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="labels", ylabel="test accuracy, %")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
