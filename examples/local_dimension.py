"""The local dimension of a model's hidden states while it learns a few texts by heart, beside its loss on others.

    python examples/local_dimension.py                    # some minutes; prints a table
    python examples/local_dimension.py --passes 1 5

The bundled model learns the beginnings of 30 texts of the sample corpus, once, and again and again. After each number
of passes, over these texts and over 30 that it has not seen: the local dimension of the last layer's states, one for
each token, and the loss in nats per token.
"""

from __future__ import annotations

import argparse

import numpy as np

import siftlm
from siftlm import sample

TEXTS, CHARACTERS = 30, 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--passes", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--rate", type=float, default=3e-4)
    arguments = parser.parse_args()
    documents = list(sample.documents(only="prose"))[:TEXTS]
    learned = [one.text[:CHARACTERS] for one in documents]
    held_out = [one.text[:CHARACTERS] for one in sample.prompts("prose", TEXTS)]
    model = siftlm.Controller("siftlm-tiny")
    print("| passes | dimension, learned | held out | nats per token, learned | held out |")
    print("|---|---:|---:|---:|---:|")

    def row(passes: int) -> None:
        dimensions = [siftlm.local_dimension(model.hidden_states(texts)).dimension for texts in (learned, held_out)]
        losses = [
            np.mean([one.nats_per_token for one in model.likelihoods([(text, "") for text in texts])])
            for texts in (learned, held_out)
        ]
        print(
            f"| {passes} | {dimensions[0]:.1f} | {dimensions[1]:.1f} | {losses[0]:.2f} | {losses[1]:.2f} |", flush=True
        )

    row(0)
    for passes in arguments.passes:
        with model.tuning(passes=passes, rate=arguments.rate) as tuner:
            tuner.learn(learned)
            row(passes)


if __name__ == "__main__":
    main()
