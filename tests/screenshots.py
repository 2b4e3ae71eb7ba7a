"""python -m tests.screenshots: take the pictures of the showcase in docs/ anew, from the running application."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.harness import ServerProcess
from tests.showcase import ROOT, Showcase

DOCS = ROOT / "docs"


def visit(browser: Browser, showcase: Showcase, path: str, width: int, height: int, scheme: str) -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{showcase.port}{path}")
    expect(page.locator("cable-state")).to_have_text("Live")
    return page


def devices(browser: Browser, board: bytes, tablet: bytes, phone: bytes) -> bytes:
    """One evening on three screens."""

    def picture(name: str, image: bytes) -> str:
        return f'<img class="{name}" src="data:image/png;base64,{base64.b64encode(image).decode()}">'

    page = browser.new_page(viewport={"width": 1_280, "height": 760})
    page.set_content(f"""
      <style>
        body {{ margin: 0; height: 760px; position: relative; background: #eadfd2; }}
        img {{ position: absolute; box-sizing: border-box; background: #0c0910; border: 10px solid #0c0910;
               border-radius: 18px; box-shadow: 0 20px 45px rgb(60 30 40 / 0.35); }}
        .board {{ left: 40px; top: 36px; width: 960px; }}
        .tablet {{ left: 90px; top: 452px; width: 500px; }}
        .phone {{ right: 50px; top: 96px; width: 288px; border-radius: 34px; }}
      </style>
      {picture("board", board)} {picture("tablet", tablet)} {picture("phone", phone)}""")
    page.wait_for_function("() => [...document.images].every((image) => image.complete)")
    return page.screenshot()


def main() -> None:
    executable = shutil.which("chromium")
    arguments = ["--no-sandbox", "--disable-gpu"]
    with (
        tempfile.TemporaryDirectory() as folder, ServerProcess() as cable,
        Showcase(Path(folder), cable.port, "--pace", "0.2") as showcase, sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        address = f"http://127.0.0.1:{showcase.port}"
        organiser = visit(browser, showcase, showcase.link("organiser"), 1_280, 960, "light")
        phone = visit(browser, showcase, showcase.link("viewer"), 390, 844, "dark")
        board = visit(browser, showcase, showcase.link("board"), 1_280, 720, "light")
        tablet = visit(browser, showcase, showcase.link("judge"), 1_024, 560, "light")
        crowd = [sys.executable, "-m", "examples.showcase.crowd", "--url", address, "--heat", "0", "--rate", "60"]
        for seconds in ("3", "3", "3", "3", "3", "1"):
            subprocess.run([*crowd, "--seconds", seconds], cwd=ROOT, check=True)
            showcase.post(f"{showcase.link('organiser')}/heat", step="next")
        for _ in range(4):
            showcase.post(f"{showcase.link('organiser')}/heat", step="back")
        for page in (organiser, phone, board, tablet):
            page.wait_for_timeout(1_500)  # for the last refetch and animation
        organiser.get_by_role("button", name="Draw").click()
        expect(organiser.locator("live-progress output")).to_contain_text("Rumba")
        organiser.screenshot(path=DOCS / "showcase-organiser.png")
        phone.screenshot(path=DOCS / "showcase-phone.png")
        board.screenshot(path=DOCS / "showcase-board.png")
        tablet.screenshot(path=DOCS / "showcase-judge.png")
        (DOCS / "showcase-screens.png").write_bytes(
            devices(browser, board.screenshot(), tablet.screenshot(), phone.screenshot())
        )
        job = visit(browser, showcase, showcase.link("organiser"), 1_100, 720, "dark")
        job.get_by_role("button", name="Run").first.click()
        expect(job.locator("cable-state")).to_have_text("Live")
        job.locator(".exit[data-exit]").wait_for()
        job.wait_for_timeout(500)
        job.screenshot(path=DOCS / "showcase-command.png")
        browser.close()


if __name__ == "__main__":
    main()
