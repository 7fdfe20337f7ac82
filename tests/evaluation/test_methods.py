"""What a label of a method means."""

from __future__ import annotations

import pytest

from siftlm.errors import InvalidInput, UnknownName
from siftlm.evaluation import parse_methods
from siftlm.evaluation.methods import parse_method


@pytest.mark.parametrize(
    ("label", "settings"),
    [
        ("sift+k=all", {"method": "sift", "k": None}),
        ("sift+noise=0.1+kernel=power:4", {"method": "sift", "noise": 0.1, "kernel": "power:4"}),
        ("sift+noise=1e+3+k=None", {"method": "sift", "noise": 1000.0, "k": None}),
        ("nn+rate=1e-4", {"method": "nearest", "rate": 1e-4}),
        (" nn-f ", {"method": "nn-f"}),
        ("sift+where=source = 'a+b'", {"method": "sift", "where": "source = 'a+b'"}),
        ("sift+betas=(0.9,0.95)+use=auto", {"method": "sift", "betas": (0.9, 0.95), "use": "auto"}),
        ("hullft+reuse=3", {"method": "hullft", "reuse": 3}),
        ("sift+completion=A: ", {"method": "sift", "completion": "A:"}),
    ],
)
def test_settings_of_a_label(label, settings):
    found = parse_method(label)
    assert found.settings == settings
    assert found.label == label.strip()
    assert found.baseline is None


def test_a_baseline_has_its_own_settings():
    assert parse_method("context+method=nearest+noise=2").settings == {"method": "nearest", "noise": 2}
    assert parse_method("base").baseline.name == "base"
    assert parse_method("calibrated+n_=1").calibrated


def test_several_are_split_between_brackets_only():
    found = [one.label for one in parse_methods("base, nn+betas=(0.9,0.99)+rate=1e-4 ,,sift+known=['a','b']")]
    assert found == ["base", "nn+betas=(0.9,0.99)+rate=1e-4", "sift+known=['a','b']"]
    assert [one.label for one in parse_methods(["base", "nn"])] == ["base", "nn"]
    assert len(parse_methods("sift+replacement=1,sift+replacement=True")) == 2  # once, and as often as one likes


@pytest.mark.parametrize(
    ("labels", "error", "said"),
    [
        ("shift", UnknownName, "did you mean 'sift'"),
        ("sift+noise", InvalidInput, "'noise' is no setting with a value; write sift\\+NAME=VALUE"),
        ("shift+noise", UnknownName, "unknown method"),
        ("sift+noise=1,sift+noise=1.0", InvalidInput, "the same twice, as 'sift\\+noise=1' and as"),
        ("", InvalidInput, "names nothing"),
        ([], InvalidInput, "names nothing"),
        ("nn,base,nn", InvalidInput, "'nn' twice"),
        ("sift+n=3", InvalidInput, "n belongs to the protocol"),
        ("sift+at=(1,)", InvalidInput, "at belongs to the protocol"),
        ("context+exclude=[1]", InvalidInput, "exclude belongs to the protocol"),
        ("sift+noise=1+noise=2", InvalidInput, "noise is given twice"),
        ("nn+method=sift", InvalidInput, "its method is nn"),
        ("base+rate=1", UnknownName, "unknown setting of base 'rate'"),
        ("./nowhere.py", InvalidInput, "no such file"),
    ],
)
def test_a_wrong_label_is_refused(labels, error, said):
    with pytest.raises(error, match=said):
        parse_methods(labels)


def test_a_file_is_called_by_its_name_without_its_folder(tmp_path):
    source = (
        'from siftlm.evaluation import Measured, baseline\n@baseline("any", "")\n'
        "def one(case, by=1):\n    return Measured(1.0, {0: 1.0}, 1, 1)\n"
    )
    for name in ("mine.py", "sift.py"):
        (tmp_path / name).write_text(source)
    assert [one.label for one in parse_methods(f"{tmp_path}/mine.py, {tmp_path}/mine.py+by=2")] == ["mine", "mine+by=2"]
    with pytest.raises(InvalidInput, match=r"sift\.py: sift is a method already"):
        parse_method(f"{tmp_path}/sift.py")
