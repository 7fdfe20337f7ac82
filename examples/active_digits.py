"""Labels for scikit-learn's digits, chosen by the network that learns from them, against labels at random.

    pip install 'siftlm[torch,plot]' scikit-learn
    python examples/active_digits.py --into digits                 # several minutes; ends with a table
    python examples/active_digits.py --into digits-quick --seeds 2 --rounds 5

Two tasks, offline. ``all``: a small network is to know all ten digits. ``some``: only 3, 5, 8 and 9 matter, and the
loader is shown unlabelled images of them as its target. In each round the loader chooses ``--batch`` images of the pool
with the current network's embeddings, their labels are looked up, and the network learns all labels so far. Writes
``curves.json`` and a figure for each task; intervals are 95 % bootstrap intervals over seeds, of paired differences.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from siftlm.evaluation.statistics import mean
from siftlm.integrations.data_loader import ActiveDataLoader

SOME = (3, 5, 8, 9)
TEST_IMAGES, TARGET_IMAGES = 500, 100
METHODS = {"all": ("random", "undirected-vtl"), "some": ("random", "undirected-vtl", "sift")}


class Network(nn.Module):
    """64 pixels, one hidden layer, ten classes; the embedding is the hidden layer."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(64, hidden), nn.ReLU())
        self.classes = nn.Linear(hidden, 10)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return self.hidden(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classes(self.hidden(images))


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--into", type=Path, required=True, help="folder for curves.json and the figures")
    ask.add_argument("--tasks", nargs="+", choices=list(METHODS), default=list(METHODS))
    ask.add_argument("--methods", nargs="+", help="instead of the task's own; random is always there")
    ask.add_argument("--seeds", type=int, default=20)
    ask.add_argument("--first-seed", type=int, default=0)
    ask.add_argument("--rounds", type=int, default=20)
    ask.add_argument("--batch", type=int, default=10, help="labels in each round")
    ask.add_argument("--steps", type=int, default=60, help="gradient steps in each round, on all labels so far")
    ask.add_argument("--noise", type=float, default=0.01)
    ask.add_argument("--figure", choices=["svg", "png"], default="svg")
    given = ask.parse_args()

    torch.set_num_threads(1)
    given.into.mkdir(parents=True, exist_ok=True)
    record = {"settings": {name: value for name, value in vars(given).items() if name != "into"}, "tasks": {}}
    for task in given.tasks:
        methods = METHODS[task] if given.methods is None else tuple(dict.fromkeys(["random", *given.methods]))
        curves = {method: [] for method in methods}
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            for method in methods:
                curves[method].append(learn(task, method, seed, given))
        record["tasks"][task] = summary(task, curves, given)
        draw(record["tasks"][task], given.into / f"{task}.{given.figure}")
    (given.into / "curves.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def learn(task: str, method: str, seed: int, given: argparse.Namespace) -> list[float]:
    """Test accuracy after each round, in percent."""
    pool, target, test = split(task, seed)
    torch.manual_seed(seed)
    network = Network()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, weight_decay=1e-4)
    loader = ActiveDataLoader(
        pool, given.batch, model=network, target=target if method == "sift" else None, method=method,
        noise=given.noise, seed=seed,
    )  # fmt: skip
    images, labels, accuracies = torch.empty(0, 64), torch.empty(0, dtype=torch.long), []
    for _, (new_images, new_labels) in zip(range(given.rounds), loader, strict=False):
        images, labels = torch.cat([images, new_images]), torch.cat([labels, new_labels])
        for _ in range(given.steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
        with torch.no_grad():
            accuracies.append(100 * float((network(test[0]).argmax(1) == test[1]).float().mean()))
    return accuracies


def split(task: str, seed: int):
    """Pool, target and test; of the images that are neither target nor test, all are in the pool."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(digits))
    images, labels = torch.tensor(pixels[order] / 16, dtype=torch.float32), torch.tensor(digits[order])
    test, rest = slice(0, TEST_IMAGES), slice(TEST_IMAGES, None)
    wanted = torch.isin(labels, torch.tensor(SOME)) if task == "some" else torch.ones(len(labels), dtype=torch.bool)
    shown = (TEST_IMAGES + wanted[rest].nonzero()[:, 0])[:TARGET_IMAGES]
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[test] = kept[shown] = False
    tested = wanted.clone()
    tested[rest] = False
    return torch.utils.data.TensorDataset(images[kept], labels[kept]), images[shown], (images[tested], labels[tested])


def summary(task: str, curves: dict[str, list[list[float]]], given: argparse.Namespace) -> dict:
    """Mean accuracies, and the paired differences to random: of the whole curve, and after each round."""
    arrays = {method: np.array(seeds) for method, seeds in curves.items()}
    labels = [given.batch * (1 + at) for at in range(given.rounds)]
    found = {"labels": labels, "methods": {}}
    print(f"\n{task}: mean accuracy over the curve, and after {labels[-1]} labels; {given.seeds} seeds")
    for method, accuracies in arrays.items():
        differences = accuracies - arrays["random"]
        area, last = mean(differences.mean(axis=1)), mean(differences[:, -1])
        found["methods"][method] = {
            "accuracy": np.round(accuracies.mean(axis=0), 2).tolist(),
            "interval": [mean(column).to_dict()["interval"] for column in accuracies.T],
            "area_less_random": area.to_dict(),
            "last_less_random": last.to_dict(),
            "seeds": np.round(accuracies, 2).tolist(),
        }
        line = f"{method:>16} {accuracies.mean():6.2f} {accuracies[:, -1].mean():6.2f}"
        if method != "random":
            line += f"   less random: {area.value:+.2f} [{area.low:.2f}, {area.high:.2f}]"
            line += f"  and {last.value:+.2f} [{last.low:.2f}, {last.high:.2f}]"
        print(line, flush=True)
    return found


def draw(found: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = path.name  # the same file each time
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 3.4), layout="constrained")
    for method, own in found["methods"].items():
        [line] = axes.plot(found["labels"], own["accuracy"], label=method)
        if own["interval"][0] is not None:
            low, high = np.array(own["interval"]).T
            axes.fill_between(found["labels"], low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="labels", ylabel="test accuracy, %")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
