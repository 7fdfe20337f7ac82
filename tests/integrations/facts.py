"""Three facts in five wordings each, and questions that ask for two of them: what the adapters' tests retrieve from."""

from __future__ import annotations

from siftlm.embedding import embedder

HASHING = embedder("hashing", width=64)
FACTS = ["Michael Jordan has five children.", "The age of Michael Jordan is 61 years.", "Jordan is a country."]
TEXTS = [
    f"{fact} {word}" for fact in FACTS for word in ("Indeed.", "Really.", "They say.", "Sources agree.", "It is known.")
]
QUESTION = "What is the age of Michael Jordan and how many children does he have?"
QUESTIONS = ["How old is Michael Jordan?", "How many children has Michael Jordan?"]
