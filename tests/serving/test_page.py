"""The page: all of it is served, nothing comes from elsewhere, and a link brings back what it was made from."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from itertools import product

import pytest
from fastapi.testclient import TestClient

from siftlm.serving import app as page

NODE = shutil.which("node")

# What is not to be found in a page that turns no string into HTML or a program.
FORBIDDEN = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "localStorage")
# (ink, paper): text of usual size needs 4.5:1.
INKS = [*product(("ink", "faint", "a", "b", "f"), ("paper", "panel", "raised")), ("on", "b")]


@pytest.fixture(scope="module")
def client():
    from fastapi import FastAPI

    app = FastAPI()
    app.include_router(page.page_routes())
    with TestClient(app) as client:
        yield client


def source(name: str) -> str:
    return page.page_files()[name].decode()


def modules() -> list[str]:
    return [name for name in page.page_files() if name.endswith(".js")]


def js(module: str, expression: str):
    """What an expression over the module ``m`` is; the module must import nothing."""
    if NODE is None:
        pytest.skip("node is not installed, which runs the page's own functions here")
    coded = base64.b64encode(source(module).encode()).decode()
    program = f"const m = await import('data:text/javascript;base64,{coded}'); "
    program += f"console.log(JSON.stringify({expression}));"
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", program], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- what is served


def test_the_index_is_asked_for_again_each_time_and_guarded(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    again = client.get("/", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/", headers={"If-None-Match": '"another"'}).status_code == 200


def test_the_policy_lets_nothing_in_from_elsewhere_and_nothing_inline(client):
    rules = dict(rule.strip().split(" ", 1) for rule in client.get("/").headers["content-security-policy"].split(";"))
    assert rules["default-src"] == "'none'"
    assert {rules[kind] for kind in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert rules["frame-ancestors"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"


def test_every_address_is_served_and_stays_for_ever(client):
    asked = set(re.findall(r'(?:src|href)="(page/[^"]+)"', source("index.html")))
    folder = f"page/{page.page_version()}/"
    for name in modules():
        asked |= {folder + other for other in re.findall(r'from "\./([^"]+)"', source(name))}
    assert {address.removeprefix(folder) for address in asked} == set(page.page_files()) - {"index.html"}
    for address in asked:
        answer = client.get("/" + address)
        assert answer.status_code == 200, address
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["content-type"] == page.CONTENT_TYPES["." + address.rpartition(".")[2]]
        assert client.head("/" + address).status_code == 200


def test_another_version_is_not_there(client):
    assert client.get("/page/0123456789abcdef/main.js").status_code == 404
    assert client.get(f"/page/{page.page_version()}/../page.py").status_code == 404


def test_the_version_follows_every_file(monkeypatch):
    stored = dict(page._read_page_files())
    stored["words.js"] += b" "
    before = page.page_version()
    monkeypatch.setattr(page, "_read_page_files", lambda: stored)
    page.page_version.cache_clear()
    try:
        assert page.page_version() != before
    finally:
        page.page_version.cache_clear()


# --- what it is made of


@pytest.mark.parametrize("name", sorted(page.page_files()))
def test_nothing_refers_to_another_host(name):
    text = source(name).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|wss?:|[\"'(=]//\w", text)


@pytest.mark.parametrize("name", sorted(modules()))
def test_no_string_becomes_html_or_a_program(name):
    assert not [word for word in FORBIDDEN if word in source(name)]


def test_the_index_holds_no_script_no_style_and_no_handler():
    text = source("index.html")
    assert not re.search(r"<style|\sstyle=|\son\w+=", text)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))


def test_what_the_modules_look_for_is_in_the_index():
    known = set(re.findall(r'\bid="([^"]+)"', source("index.html")))
    asked = {name for module in modules() for name in re.findall(r'byId\("([^"]+)"\)', source(module))}
    assert asked <= known, asked - known
    assert {"stop", "prompt", "plane"} <= asked


def test_every_field_has_a_label():
    text = source("index.html")
    fields = re.findall(r'<(?:input|select|textarea) id="([^"]+)"', text)
    assert len(fields) >= 10
    assert not [name for name in fields if f'for="{name}"' not in text]


def test_inks_are_told_from_their_papers():
    css = source("base.css")
    schemes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    assert len(schemes) == 2
    for colours in schemes:
        for ink, paper in INKS:
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper, colours[ink], colours[paper])
        assert contrast(colours["edge"], colours["raised"]) >= 3  # the outline of fields


def contrast(one: str, other: str) -> float:
    """WCAG 2: (lighter + 0.05) / (darker + 0.05)."""
    lights = []
    for colour in (one, other):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


# --- its own functions, run by node


def test_a_link_brings_back_what_it_was_made_from():
    states = [
        {},
        {"prompt": "How old is #1 & what=2?\nä € 漢字 \U0001f600 + %20", "n": 50, "noise": 0.032, "seed": 7},
        {"method": "nn-f", "temperature": 0, "max": 400, "model": "a/b", "memory": "two words@x"},
    ]
    back = js(
        "state.js",
        f"{json.dumps(states)}.map((s) => [{{...m.DEFAULTS, ...s}}, m.fromHash(m.toHash({{...m.DEFAULTS, ...s}}))])",
    )
    for given, found in back:
        assert found == given
    assert js("state.js", "m.toHash(m.DEFAULTS)") == ""


def test_a_link_from_somebody_else_cannot_ask_for_anything():
    link = "#n=1e9&noise=-3&t=NaN&max=&seed=2.7&by=%3Cb%3E&key=secret&__proto__=x"
    found = js("state.js", f"m.fromHash({json.dumps(link)})")
    defaults = js("state.js", "m.DEFAULTS")
    assert found == {**defaults, "n": 200, "noise": 0.001, "seed": 3}


def test_models_are_named_as_the_server_reads_them():
    state = {"model": "tiny", "n": 20, "memory": ""}
    assert js("state.js", f"m.modelName({json.dumps(state)}, 'base')") == "tiny"
    assert js("state.js", f"m.modelName({json.dumps(state)}, 'nn')") == "tiny:nn-20"
    assert js("state.js", f"m.modelName({json.dumps({**state, 'memory': 'law'})}, 'sift')") == "tiny:sift-20@law"


def test_memories_are_read_from_the_names_of_models():
    listed = [{"id": name} for name in ("tiny", "tiny:auto", "tiny:sift-50", "tiny:sift-50@law", "tiny:nn-50@law")]
    found = js("state.js", f"m.offered({json.dumps(listed)})")
    assert found == {"models": ["tiny"], "memories": ["law"], "noises": {}, "byDefault": True, "learns": True}
    assert js("state.js", "m.offered([{id: 'tiny'}])")["learns"] is False


def test_what_the_server_goes_by_is_read_for_each_memory():
    noises = {"tiny:auto": 5, "tiny:sift-50": 3, "tiny:sift-50@law": 0.3}
    listed = [{"id": "tiny"}, *({"id": name, "siftlm": {"noise": noise}} for name, noise in noises.items())]
    listed.append({"id": "tiny:nn-50@law", "siftlm": {"n": 50}})
    assert js("state.js", f"m.offered({json.dumps(listed)})")["noises"] == {"": 3, "law": 0.3}


def test_how_much_of_a_text_was_said_before():
    texts = ["the age of Ada is thirty years", "Ada has three children", "The age of Ada is thirty-one!", "Ada"]
    found = js("words.js", f"m.repeats({json.dumps(texts)})")
    assert [one["of"] for one in found] == [None, None, 0, None]
    assert found[2]["share"] == pytest.approx(
        4 / 5
    )  # of: the age of, age of ada, of ada is, ada is thirty, is thirty one


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("401, {message: 'no key'}", "The server requires an API key. No key."),
        ("429, {message: 'the queue is full'}, '7'", "The server is busy; try again in 7 seconds. The queue is full."),
        ("400, {message: 'n must be whole.'}", "N must be whole."),
        ("502, null", "The server failed (502)."),
        ("418, null", "The server refused the request (418)."),
    ],
)
def test_refusals_are_said_in_words(given, said):
    assert js("words.js", f"m.trouble({given})") == said
