"""The generator of the sample corpus, which ships with siftlm as ``src/siftlm/data/sample.jsonl.xz``.

    python -m benchmarks.sample_corpus              write the file anew
    python -m benchmarks.sample_corpus --check      compare the file with what would be written

Code and prose are the standard library and the language reference of the Python that runs; the mathematics is made up,
always the same. The file that ships was made by Python 3.11.7 as python.org has it, and another Python makes another
file. Compressed bytes depend on liblzma as well, so ``--check`` compares what is in the file.

The study's sample (``benchmarks/results/study/sample``) is in this file whole: a memory of
``siftlm.sample.documents(size="full")`` has the ``contents`` that its ``run.json`` names, and the texts drawn by
``siftlm eval --test sample --per-domain 16 --skip 4`` are those of its records. ``siftlm-tiny`` was made of another
corpus, without documents that come from CPython (``examples/pretrain_tiny.py``).
"""
