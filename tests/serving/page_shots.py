"""Take the pictures of the guide again, from a server that runs:

siftlm serve --memory siftlm-demo/memory --port 8000
python tests/serving/page_shots.py http://127.0.0.1:8000 docs/images
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

WIDE, PHONE = {"width": 1280, "height": 1180}, {"width": 390, "height": 844}


def asked(page: Page, address: str, example: str) -> None:
    page.goto(address)
    page.click(f"[data-example={example}]")
    page.keyboard.press("Control+Enter")


def main(address: str, folder: Path) -> None:
    browser_at = shutil.which("chromium") or shutil.which("google-chrome")
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_at, args=alone)

        def opened(**settings: object) -> Page:
            page = browser.new_context(**settings).new_page()  # type: ignore[arg-type]
            page.set_default_timeout(120_000)
            return page

        def done(page: Page) -> None:
            expect(page.locator("#status")).to_have_text(re.compile("^Done in"), timeout=120_000)
            page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")

        page = opened(viewport=WIDE, color_scheme="light")
        asked(page, address, "prose")
        done(page)
        page.screenshot(path=folder / "serving-page.png")

        page = opened(viewport={"width": 1280, "height": 860}, color_scheme="dark")
        asked(page, address, "fractions")
        expect(page.locator("#answer-sift .how")).to_have_text(re.compile(r"step (6|7|8|9|1\d) of"), timeout=120_000)
        page.screenshot(path=folder / "serving-learning.png")
        done(page)

        page = opened(viewport=PHONE, color_scheme="light", has_touch=True, is_mobile=True, device_scale_factor=1)
        asked(page, address, "fractions")
        done(page)
        page.screenshot(path=folder / "serving-phone.png", clip={"x": 0, "y": 0, **PHONE})
        page.locator("#why").scroll_into_view_if_needed()
        page.evaluate("document.querySelector('.plane').scrollIntoView({ block: 'start' })")
        page.wait_for_timeout(700)
        page.screenshot(path=folder / "serving-phone-picture.png")
        browser.close()
    for file in folder.glob("serving-*.png"):  # few colours, and a third of the size
        Image.open(file).convert("RGB").quantize(128).save(file, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
