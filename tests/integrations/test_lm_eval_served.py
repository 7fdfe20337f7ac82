"""The unmodified harness asks the server and gets the figures of the model that runs inside it: base and tuned."""

from __future__ import annotations

import json
import warnings

import pytest

from siftlm import Memory
from siftlm.controller import Controller
from siftlm.integrations import lm_eval as ours
from siftlm.integrations.lm_eval_tasks import write_tasks
from siftlm.serving import background_server

pytestmark = pytest.mark.usefixtures("lm_eval")

TEXTS = [
    f"def {verb}_{thing}(a, b):\n    return a {sign} b\n"
    for verb, sign in (("add", "+"), ("take", "-"))
    for thing in ("apples", "pears", "plums", "days")
]
SCORED = ["def add_grapes(a, b):\n    return a + b\n", "def take_hours(a, b):\n    return a - b\n"]
SETTINGS = {"n": 4, "rate": 0.002, "precision": "float32"}
SCORING = "scoring_no_domain"
CHOICE = """\
task: {name}
custom_dataset: !function texts.load
dataset_kwargs: {{file: rows.jsonl}}
test_split: test
{body}
"""
MULTIPLE = """\
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
GENERATE = """\
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: " a + b"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with Memory.create(tmp_path_factory.mktemp("served") / "code") as made:
        made.add(TEXTS)
        yield made


@pytest.fixture(scope="module")
def url(memory):
    with background_server("siftlm-tiny", {"code": memory}, **SETTINGS) as found:
        yield found


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Whole texts to be scored, choices, and something to be said."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"question": "def add_grapes(a, b):\n    return", "choices": [" a + b", " b", " a - b + 1"]},
        {"question": "def take_hours(a, b):\n    return", "choices": [" a - b", " a", " a + b + 1"]},
    ]
    texts = folder / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in SCORED))
    made = write_tasks(texts, folder / "tasks", name="scoring", shortest=1)
    assert made.tasks == (SCORING,)
    (made.path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, body in (("choosing", MULTIPLE), ("saying", GENERATE)):
        (made.path / f"{name}.yaml").write_text(CHOICE.format(name=name, body=body))
    from lm_eval.tasks import TaskManager

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TaskManager(include_path=str(made.path), include_defaults=False)


def evaluated(model, model_args, names, tasks, **how):
    from lm_eval import simple_evaluate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = simple_evaluate(
            model, model_args=model_args, tasks=names, task_manager=tasks, log_samples=True, bootstrap_iters=0, **how
        )
    said = {name: [sample["resps"] for sample in samples] for name, samples in found["samples"].items()}
    figures = {name: {k: v for k, v in one.items() if isinstance(v, float)} for name, one in found["results"].items()}
    return figures, said


def over_http(url, mode, names, tasks, batch=1):
    arguments = {
        "model": f"siftlm-tiny{mode}",
        "base_url": f"{url}/v1/completions",
        "tokenizer_backend": "remote",
        "num_concurrent": 2,
    }
    return evaluated("local-completions", arguments, names, tasks, batch_size=batch)


def inside(memory, names, tasks, **settings):
    controller = Controller("siftlm-tiny", engine="lora")
    model = ours.model_class()(
        controller, **({} if settings.get("method") == "base" else {"memory": memory}), **settings
    )
    return evaluated(model, None, names, tasks)


def close(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[name], other[name]) for name in one)
    return one == pytest.approx(other, rel=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_the_base_model(url, memory, tasks, batch):
    names = [SCORING, "choosing", "saying"]
    figures, said = over_http(url, "", names, tasks, batch)
    expected, heard = inside(memory, names, tasks, method="base")
    assert close(figures, expected)
    assert said["saying"] == heard["saying"]
    assert figures[SCORING]["bits_per_byte,none"] > 0


@pytest.mark.slow
def test_a_tuned_model(url, memory, tasks):
    names = [SCORING, "saying"]
    figures, said = over_http(url, ":sift-4", names, tasks)
    expected, heard = inside(memory, names, tasks, method="sift", rolling="transductive", **SETTINGS)
    assert close(figures, expected)
    assert said["saying"] == heard["saying"]
    base, _ = over_http(url, "", names, tasks)
    assert figures[SCORING]["bits_per_byte,none"] < 0.95 * base[SCORING]["bits_per_byte,none"]
