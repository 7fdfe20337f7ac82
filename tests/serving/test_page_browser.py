"""The page in Chromium, end to end, against the stand-in of `page_server`."""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from serving import page_server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)"),
]

PROMPT = "What is the age of Ada Brook and how many children does she have?"
PHONE = {"width": 390, "height": 844}


def expect(locator: Any) -> Any:
    """playwright's ``expect``, which is imported when a test needs it."""
    from playwright.sync_api import expect

    expect.set_options(timeout=60_000)
    return expect(locator)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    # As root, as in containers, Chromium starts without its sandbox or not at all.
    alone = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    env = {**os.environ, "HOME": str(tmp_path_factory.mktemp("chromium"))}
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=alone, env=env)
        yield browser
        browser.close()


@pytest.fixture
def manners() -> page_server.Manners:
    return page_server.Manners(pause=0.001)


@pytest.fixture
def address(manners) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(page_server.app(manners), port=port, log_level="error", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = server.force_exit = True
    thread.join(60)


@pytest.fixture
def opened(browser, address):
    """open(…) gives a page of its own context; in the end no page may have had troubles or have asked elsewhere."""
    contexts: list[Any] = []
    troubles: list[str] = []

    def new(at: str = "", *, refusals: bool = False, **settings: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        view = context.new_page()
        view.set_default_timeout(60_000)
        view.on("pageerror", lambda error: troubles.append(str(error)))
        view.on("request", lambda request: request.url.startswith(address) or troubles.append(request.url))
        if not refusals:  # a refused request is an error in the console, and rightly so
            view.on("console", lambda said: said.type in ("error", "warning") and troubles.append(said.text))
        view.goto(address + at)
        expect(view.locator("#about")).not_to_be_empty() if not refusals else None
        return view

    yield new
    for context in contexts:
        context.close()
    assert troubles == []


def run(view: Any, prompt: str = PROMPT) -> None:
    view.fill("#prompt", prompt)
    view.keyboard.press("Control+Enter")
    done(view)


def done(view: Any) -> None:
    expect(view.locator("#status")).to_have_text(re.compile("^Done in"))


def answer(model: str, tokens: int = 80, seed: int = 0) -> str:
    return "".join(page_server.said({"model": model, "prompt": PROMPT, "seed": seed, "max_tokens": tokens}))


# --- a run


def test_three_answers_stand_side_by_side(opened):
    view = opened()
    run(view)
    for side, model in (("base", ""), ("nearest", ":nearest-20"), ("sift", ":sift-20")):
        assert view.text_content(f"#answer-{side} .said") == answer(page_server.NAME + model)
    expect(view.locator("#answer-sift .how")).to_contain_text("tuned in 20 steps")
    expect(view.locator("#answer-base .how")).to_contain_text("not tuned")
    tops = {round(view.locator(f"#answer-{side}").bounding_box()["y"]) for side in ("base", "nearest", "sift")}
    assert len(tops) == 1


def test_both_lists_say_what_was_chosen_and_why(opened):
    view = opened()
    run(view)
    found = page_server.Chooser().found(PROMPT, "sift", 20, 1.0)
    cards = view.locator("#picks-sift .card")
    assert cards.count() == 20
    assert view.locator("#picks-nearest .card").count() == 20
    first = found["hits"][0]
    expect(cards.first.locator("pre")).to_have_text(first["text"])
    expect(cards.first.locator(".facts")).to_contain_text(f"cosine {first['score']:.2f}")
    expect(cards.first.locator(".facts")).to_contain_text(f"gain {100 * first['gain']:.1f} %")
    expect(cards.first.locator(".facts")).to_contain_text("register of Aldmoor")
    left = 100 * found["selection"]["uncertainty"][-1] / found["selection"]["uncertainty"][0]
    expect(view.locator("#picks-sift > p")).to_contain_text(f"{left:.0f} % of the uncertainty left")


def test_the_picture_holds_prompt_candidates_and_picks(opened):
    view = opened()
    run(view)
    chosen = {row for method in ("sift", "nearest") for row in rows(method)}
    assert view.locator("#plane .pick").count() == len(chosen)
    assert view.locator("#plane .candidate").count() == len(page_server.texts()) - len(chosen)
    assert view.locator("#plane .pick .sift").count() == len(set(rows("sift")))
    assert view.locator("#plane .prompt").count() == 1


def rows(method: str) -> list[int]:
    return [hit["row"] for hit in page_server.Chooser().found(PROMPT, method, 20, 1.0)["hits"]]


def test_pointing_at_a_pick_lights_its_text_and_the_other_way_round(opened):
    view = opened()
    run(view)
    row = rows("sift")[1]
    view.hover(f'#picks-sift .card[data-row="{row}"]')
    expect(view.locator(f'#plane .pick[data-row="{row}"]')).to_have_class("pick lit")
    expect(view.locator("#readout")).to_contain_text("SIFT 2")
    view.mouse.move(0, 0)
    expect(view.locator("#readout")).to_contain_text("Point at one")
    view.evaluate("window.scrollTo({ top: 0, behavior: 'instant' })")
    mark = view.locator(f'#plane .pick[data-row="{row}"] .sift').bounding_box()
    view.mouse.move(mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2)
    expect(view.locator(f'#picks-sift .card[data-row="{row}"]')).to_have_class(re.compile(r"\blit\b"))


def test_curves_and_bars_move_while_the_model_learns(opened, manners):
    manners.hold = 6  # what was selected, and five steps
    view = opened()
    view.fill("#prompt", PROMPT)
    view.click("#run")
    expect(view.locator("#answer-sift .how")).to_contain_text("step 5 of 20")
    expect(view.locator("#loss circle.dot.fill-b")).to_have_count(5)
    assert points(view) == 6  # one before the first text, and one after each
    assert view.locator("#answer-sift progress").evaluate("(bar) => bar.value") == 5 / 20
    manners.hold = 13
    expect(view.locator("#answer-sift .how")).to_contain_text("step 12 of 20")
    expect(view.locator("#loss circle.dot.fill-b")).to_have_count(12)
    assert points(view) == 13
    manners.hold = None
    done(view)
    assert points(view) == 21
    assert view.text_content("#answer-sift .said") == answer("stand-in:sift-20")


def points(view: Any) -> int:
    return len(view.get_attribute("#uncertainty .line.stroke-b", "points").split())


def test_escape_stops_and_the_server_notices(opened, manners):
    manners.hold = 3
    view = opened()
    view.fill("#prompt", PROMPT)
    view.click("#run")
    expect(view.locator("#answer-sift .how")).to_contain_text("step 2 of 20")
    view.keyboard.press("Escape")
    expect(view.locator("#status")).to_have_text("Stopped.")
    expect(view.locator("#answer-sift .how")).to_have_text("stopped")
    expect(view.locator("#stop")).to_be_hidden()
    waited = time.monotonic() + 30
    while manners.dropped < 3 and time.monotonic() < waited:
        time.sleep(0.05)
    assert manners.dropped == 3


def test_a_moved_slider_selects_anew_and_marks_the_answers(opened, manners):
    view = opened()
    run(view)
    view.focus("#n")
    view.keyboard.press("ArrowRight")
    expect(view.locator("#picks-sift .card")).to_have_count(21)
    expect(view.locator("#answer-sift")).to_have_class(re.compile("stale"))
    before = len(manners.asked)
    view.focus("#noise")
    view.keyboard.press("Home")
    expect(view.locator("#noise-value")).to_have_text("0.001")
    expect(view.locator("#status")).to_contain_text("selected in")
    expect(view.locator("#results")).to_have_attribute("aria-busy", "false")
    waited = time.monotonic() + 30
    while len(manners.asked) < before + 2 and time.monotonic() < waited:
        view.wait_for_timeout(20)
    assert [body["siftlm"]["noise"] for body in manners.asked[before:]] == [0.001, 0.001]
    assert all("prompt" not in body for body in manners.asked[before:])  # nothing was learned for that


def test_the_noise_is_the_servers_until_somebody_moves_it(opened, manners):
    view = opened()
    expect(view.locator("#noise-value")).to_have_text("1")
    view.select_option("#memory", "annals")
    expect(view.locator("#noise-value")).to_have_text("0.3")
    run(view)
    assert all("noise" not in body.get("siftlm", {}) for body in manners.asked)
    assert "noise=" not in view.url
    before = len(manners.asked)
    view.focus("#noise")
    view.keyboard.press("End")
    expect(view.locator("#noise-value")).to_have_text("100")
    run(view)
    learned = [body for body in manners.asked[before:] if ":" in body["model"]]
    assert {body["siftlm"]["noise"] for body in learned} == {100}
    assert "noise=100" in view.url
    view.click("#reset")
    expect(view.locator("#noise-value")).to_have_text("0.3")


def test_only_selecting_learns_nothing(opened, manners):
    view = opened()
    view.fill("#prompt", PROMPT)
    view.click("#select")
    expect(view.locator("#status")).to_contain_text("20 texts of 56 candidates")
    expect(view.locator("#answers")).to_be_hidden()
    assert {body["model"] for body in manners.asked} == {"stand-in:nearest-20", "stand-in:sift-20"}


def test_an_empty_prompt_asks_for_one(opened, manners):
    view = opened()
    view.click("#run")
    expect(view.locator("#status")).to_contain_text("Write a prompt first")
    expect(view.locator("#prompt")).to_be_focused()
    assert manners.asked == []


# --- links and keys


def test_a_link_brings_back_prompt_and_settings(opened, address, manners):
    view = opened()
    view.select_option("#method", "mmr")
    view.select_option("#memory", "annals")
    view.fill("#max", "5")
    view.fill("#seed", "3")
    run(view, "Who keeps a shop in Elmstead?\n#2 & more")
    link = view.url
    other = opened(link.removeprefix(address))
    assert other.input_value("#prompt") == "Who keeps a shop in Elmstead?\n#2 & more"
    fields = {name: other.input_value(f"#{name}") for name in ("method", "memory", "max", "seed")}
    assert fields == {"method": "mmr", "memory": "annals", "max": "5", "seed": "3"}
    before = len(manners.asked)
    other.click("#run")
    done(other)
    asked = {body["model"] for body in manners.asked[before:]}
    assert asked == {"stand-in", "stand-in:nearest-20@annals", "stand-in:mmr-20@annals"}
    assert other.url == link


def test_a_key_is_asked_for_kept_in_the_tab_and_in_no_link(opened, manners):
    manners.key = "open-sesame"
    view = opened(refusals=True)
    expect(view.locator("#error")).to_contain_text("requires an API key")
    expect(view.locator("#key")).to_be_focused()
    view.keyboard.type("open-sesame")
    view.keyboard.press("Enter")
    expect(view.locator("#about")).to_have_text("stand-in")
    expect(view.locator("#error")).to_be_hidden()
    run(view)
    assert "sesame" not in view.url
    assert "sesame" not in view.text_content("#curl")
    assert view.evaluate("[localStorage.length, document.cookie, sessionStorage.getItem('siftlm.key')]") == [
        0,
        "",
        "open-sesame",
    ]
    view.reload()
    expect(view.locator("#about")).to_have_text("stand-in")
    view.click("#key-forget")
    expect(view.locator("#error")).to_contain_text("requires an API key")


# --- what goes wrong


def test_a_full_queue_is_said_in_words(opened, manners):
    manners.refuse = (429, "the queue is full", {"Retry-After": "7"})
    view = opened(refusals=True)
    view.fill("#prompt", PROMPT)
    view.click("#run")
    expect(view.locator("#error")).to_have_text("The server is busy; try again in 7 seconds. The queue is full.")
    manners.refuse = None
    run(view)
    expect(view.locator("#error")).to_be_hidden()


def test_an_error_in_the_middle_is_said_where_it_happened(opened, manners):
    manners.broken = "the model's memory is full"
    view = opened()
    view.fill("#prompt", PROMPT)
    view.click("#run")
    expect(view.locator("#error")).to_have_text("The model's memory is full.")
    expect(view.locator("#answer-sift .how")).to_have_text("The model's memory is full.")


def test_a_server_that_is_gone_is_said(opened):
    view = opened(refusals=True)
    expect(view.locator("#about")).not_to_be_empty()
    view.context.set_offline(True)
    view.fill("#prompt", PROMPT)
    view.click("#run")
    expect(view.locator("#error")).to_contain_text("cannot be reached")


def test_a_server_that_comes_back_is_asked_again(opened):
    view = opened(refusals=True)
    view.route("**/v1/models", lambda route: route.abort())
    view.reload()
    expect(view.locator("#error")).to_contain_text("cannot be reached")
    view.unroute("**/v1/models")
    run(view)
    expect(view.locator("#error")).to_be_hidden()


def test_texts_are_shown_and_never_read_as_html(opened):
    view = opened()
    run(view, "The age of Ada Brook is written here. <b>&lt;")
    expect(view.locator("#picks-sift")).to_contain_text(page_server.WILD)
    assert view.locator(".picks img, .picks script, .picks b, #plane img").count() == 0
    assert view.title() == "siftlm: a model fine-tuned for every prompt"
    assert view.text_content("#answer-base .asked") == "The age of Ada Brook is written here. <b>&lt;"


def test_a_long_text_is_folded(opened):
    view = opened()
    run(view, "Ada Brook and her children keep this register of sheep and dogs that goes on: Line 3")
    card = view.locator("#picks-sift .card", has_text="Ada Brook and her children keep this").first
    assert "Line 39" not in card.inner_text()
    fold = card.locator("button.fold")
    fold.press("Enter")
    assert "Line 39" in card.locator("pre").text_content()
    expect(fold).to_have_attribute("aria-expanded", "true")
    fold.press("Enter")
    assert "Line 39" not in card.locator("pre").text_content()


# --- keys, screens and preferences


def test_everything_is_reached_by_tab_and_seen_to_be(opened):
    view = opened()
    run(view)
    view.focus(".skip")
    reached: list[str] = []
    unseen: list[str] = []
    for _ in range(120):
        view.keyboard.press("Tab")
        where, seen = view.evaluate(
            """() => { const now = document.activeElement, style = getComputedStyle(now);
            const reach = now.querySelector?.('.reach');
            return [now.id || now.getAttribute('class') || now.tagName,
                    style.outlineStyle !== 'none' || (reach && getComputedStyle(reach).stroke !== 'none')]; }"""
        )
        if where == "BODY":
            break
        reached.append(where)
        if not seen:
            unseen.append(where)
    expected = ["prompt", "run", "select", "method", "n", "noise", "max", "temperature", "seed", "memory", "link"]
    assert [name for name in reached if name in expected] == expected
    assert "number" in reached
    assert any(name.startswith("pick") for name in reached)
    assert unseen == []


def test_arrows_go_through_the_picture_and_enter_to_the_text(opened):
    view = opened()
    run(view)
    view.focus("#plane .pick[tabindex='0']")
    view.keyboard.press("ArrowRight")
    expect(view.locator("#readout")).to_contain_text("SIFT 2")
    view.keyboard.press("End")
    assert view.locator("#plane .pick[tabindex='0']").count() == 1
    row = view.evaluate("document.activeElement.dataset.row")
    view.keyboard.press("Enter")
    card = view.locator(f'.card[data-row="{row}"]').first
    expect(card.locator("button.number")).to_be_focused()
    expect(card).to_be_visible()


@pytest.mark.parametrize("width", [320, 390, 700, 1024])
def test_no_screen_is_scrolled_sideways(opened, width):
    view = opened(viewport={"width": width, "height": 844})
    run(view, PROMPT + " " + "unbroken" * 40)
    for rest in view.locator("details").all():
        rest.evaluate("(one) => { one.open = true; }")
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    outside = view.evaluate(
        """() => [...document.querySelectorAll('body *')].filter((one) => !one.closest('.skip')
        && one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.tagName + '.' + one.className)"""
    )
    assert outside == []


def test_a_phone_has_one_column_and_a_stop_in_sight(opened, manners):
    manners.hold = 5
    view = opened(viewport=PHONE, has_touch=True)
    expect(view.locator("#n")).to_be_hidden()  # the settings are folded away
    view.fill("#prompt", PROMPT)
    view.tap("#run")
    expect(view.locator("#answer-sift .how")).to_contain_text("step 4 of 20")
    expect(view.locator("#stop")).to_be_in_viewport()
    lefts = {round(view.locator(f"#answer-{side}").bounding_box()["x"]) for side in ("base", "nearest", "sift")}
    assert len(lefts) == 1
    view.tap("#stop")
    expect(view.locator("#status")).to_have_text("Stopped.")
    small = view.evaluate(
        """() => [...document.querySelectorAll('button, select, input, summary')].filter((one) => one.offsetParent
        && one.getBoundingClientRect().height < 24).map((one) => one.id || one.className || one.textContent)"""
    )
    assert small == []


def test_preferences_are_kept(opened, manners):
    manners.hold = 4
    view = opened(color_scheme="dark", reduced_motion="reduce")
    ink, paper = view.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert sum(map(int, re.findall(r"\d+", ink))) > 600 > 150 > sum(map(int, re.findall(r"\d+", paper)))
    view.fill("#prompt", PROMPT)
    view.click("#run")
    expect(view.locator("#answer-sift .how")).to_contain_text("step 3 of 20")
    assert view.evaluate("document.getAnimations().length") == 0
    assert view.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def test_progress_is_said_aloud_but_not_every_step(opened, manners):
    view = opened()
    view.evaluate(
        """() => { const status = document.getElementById('status'); window.said = [];
        new MutationObserver(() => window.said.push(status.textContent)).observe(status, { childList: true }); }"""
    )
    assert view.get_attribute("#status", "aria-live") == "polite"
    run(view)
    said = view.evaluate("window.said")
    assert said[0] == "Selecting …"
    steps = [one for one in said if one.startswith("Tuning")]
    assert 1 <= len(steps) <= 8  # two sides, four times each
