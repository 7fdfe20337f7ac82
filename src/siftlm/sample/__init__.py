"""The sample memory's corpus: real text that every Python has, and school mathematics that is made up here.

    memory = siftlm.Memory.build(siftlm.sample.documents(), into="sample-memory")
    prompt = siftlm.sample.prompts("code", count=1)[0]
    memory.search(prompt.text)

Nothing is downloaded, and nothing of it is shipped: code and prose are read from the standard library of the Python
that runs. Some modules, topics and problems are held out: no document holds them, so prompts can be made of them.
"""

from __future__ import annotations

from siftlm.sample.corpus import KINDS, Inventory, documents, inventory, prompts

__all__ = ["KINDS", "Inventory", "documents", "inventory", "prompts"]
