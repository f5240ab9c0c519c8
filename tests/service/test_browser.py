"""The page in a real browser, where there is one: what people do with it, by mouse, by keyboard and on a phone."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import tercet
from tercet.gallery import open_gallery
from tercet.service import Journal, Settings

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
pytestmark = pytest.mark.skipif(not BROWSER, reason="no chromium on this machine")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --use-fake-ui-for-media-stream --use-fake-device-for-media-stream"
).split()
PATIENT_MS = 120_000
KEY = "0123456789abcdef"

Visit = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=FLAGS, timeout=PATIENT_MS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path, run: Path, on_a_socket: Any) -> Iterator[Visit]:
    """Starts a service and opens its page; no complaint may stand in the browser's console, no other host be asked."""
    complaints: list[str] = []
    with ExitStack() as stack:

        def begin(of: Path = run, keys: tuple[str, ...] = (), **options: Any) -> Any:
            model = tercet.load(of)
            width = int(model.config["encoder"]["embedding_dim"])
            gallery = stack.enter_context(
                open_gallery(str(tmp_path / "g.db"), model=model.fingerprint, dimension=width, create=True)
            )
            url = stack.enter_context(on_a_socket(model, gallery, Settings(keys=keys), Journal(io.StringIO())))
            page = stack.enter_context(browser.new_context(**options)).new_page()
            page.set_default_timeout(PATIENT_MS)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
            page.on(
                "request", lambda asked: None if asked.url.startswith((url, "blob:")) else complaints.append(asked.url)
            )
            page.goto(url)
            if not keys:
                page.wait_for_selector("html[data-ready]")
            return page

        yield begin
    assert complaints == []


def choose(page: Any, section: str, *files: Path | list[Path]) -> None:
    inputs = page.locator(f"#{section} input[type=file]")
    for number, file in enumerate(files):
        inputs.nth(number).set_input_files(file)


def told(page: Any, selector: str) -> Any:
    """What the page must come to show there."""
    return playwright.expect(page.locator(selector))


def press(page: Any, section: str, shown: str) -> Any:
    page.click(f"#{section} button.main[type=submit]")
    return page.wait_for_selector(f"#{section} {shown}")


def test_compare_enroll_identify_search_and_forget(visit: Visit, pictures: Path) -> None:
    page = visit()
    person = [sorted((pictures / f"p{n:02d}").iterdir()) for n in range(3)]
    assert page.inner_text("#compare h1") == "Is it the same person?"
    page.click("#compare button.main")
    assert page.inner_text("#compare .notice") == "A picture is missing."

    choose(page, "compare", person[0][0], person[0][0])
    assert page.locator("#compare .pick img").count() == 2
    press(page, "compare", ".verdict.yes")
    said = page.inner_text("#compare .verdict")
    assert "Match" in said
    assert "most likely show the same person" in said
    assert "Likeness 1.00" in said
    dot, track = (page.locator(f"#compare {name}").bounding_box() for name in (".track i", ".track"))
    assert dot["x"] > track["x"] + track["width"] / 2
    broken = pictures / ".." / "broken.png"
    broken.write_bytes(b"no picture at all")
    page.locator("#compare input[type=file]").nth(1).set_input_files(broken)
    page.click("#compare button.main")
    page.wait_for_selector("#compare .notice.bad")
    assert "Is not an image that can be read" in page.inner_text("#compare .answer")

    page.click("nav a[href='#people']")
    assert page.evaluate("document.activeElement.id") == "people-title"
    told(page, "#people .count").to_have_text("Nobody yet.", timeout=PATIENT_MS)
    for number, keep in ((0, True), (1, False)):
        page.fill("#people [name=identity]", f"<b>Person</b> {number}")
        choose(page, "people", person[number][:3])
        if keep:
            page.check("#people [name=store_pictures]")
        press(page, "people", ".notice.good")
        told(page, "#people .list li").to_have_count(number + 1, timeout=PATIENT_MS)
    assert "<b>Person</b> 0" in page.inner_text("#people .list")
    assert "Added 3 pictures." in page.inner_text("#people .answer")

    page.click("nav a[href='#identify']")
    choose(page, "identify", person[0][1])
    press(page, "identify", ".verdict")
    page.wait_for_selector("#identify .hits img")
    assert page.inner_text("#identify .word") == "<b>Person</b> 0"
    # One of six comparisons goes wrong more often than one: 1 - (1 - FMR)^6, and not the FMR, is what is told.
    asked = page.request.post(
        f"{page.url.split('#')[0]}v1/identify",
        multipart={"file": {"name": "x.png", "mimeType": "image/png", "buffer": person[0][1].read_bytes()}},
    ).json()
    assert asked["comparisons"] == 6 and asked["expected_fpir"] > 0.2
    assert f"about {round(100 * asked['expected_fpir'])} in 100 would be taken" in page.inner_text("#identify .verdict")
    page.click("nav a[href='#search']")
    choose(page, "search", person[1][0])
    press(page, "search", ".hits")
    assert page.locator("#search .hits li").count() == 6
    assert "1. likeness 1.00" in page.locator("#search .hits li").first.inner_text()
    told(page, "#search .hits img").to_have_count(3, timeout=PATIENT_MS)

    page.click("nav a[href='#people']")
    page.click("#people .list li:first-child button")
    page.click("#sure button[value=no]")
    assert page.locator("#people .list li").count() == 2
    page.click("#people .list li:first-child button")
    page.click("#sure button[value=yes]")
    told(page, "#people .list li").to_have_count(1, timeout=PATIENT_MS)
    assert "has been removed" in page.inner_text("#people .count")
    page.goto(page.url.split("#")[0] + "docs")
    assert "/v1/verify" in page.inner_text("main")


@pytest.mark.long
def test_a_phone_the_dark_a_key_and_the_keyboard(visit: Visit, pictures: Path) -> None:
    page = visit(keys=(KEY,), viewport={"width": 320, "height": 640}, color_scheme="dark", reduced_motion="reduce")
    page.wait_for_selector("#key[open]")
    page.keyboard.type("wrong" + KEY)
    page.keyboard.press("Enter")
    told(page, "#key .wrong").to_contain_text("not the right one", timeout=PATIENT_MS)
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert all(int(part) < 64 for part in colour[4:-1].split(","))

    choose(page, "compare", *[pictures / "p00" / f"{n}.png" for n in (0, 0)])
    page.focus("#compare input[type=file] >> nth=1")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Compare"
    page.keyboard.press("Enter")
    page.wait_for_selector("#compare .verdict.yes")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    # What a screen reader is told: every control has a name, the answer is a live region.
    for control in page.locator("input:visible, button:visible, select:visible, a:visible").all():
        name = control.evaluate(
            "e => e.ariaLabel || e.textContent || [...(e.labels || [])].map(l => l.textContent).join('')"
        )
        assert name.strip(), control.evaluate("e => e.outerHTML")
    assert page.get_attribute("#compare .answer", "role") == "status"
    assert page.locator("#compare .track").get_attribute("role") == "img"
    page.focus("nav a >> nth=3")
    page.keyboard.press("Enter")
    page.wait_for_selector("#people:not([hidden])")
    assert page.get_attribute("nav a[href='#people']", "aria-current") == "page"
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.mark.long
def test_sounds_are_recorded_and_compared(visit: Visit, sound_run: Path, voices: Path) -> None:
    page = visit(sound_run, permissions=["microphone"])
    assert page.inner_text("#compare h1") == "Is it the same speaker?"
    button = page.locator("#compare .box button").first
    button.click()
    page.wait_for_selector("#compare .box button.on")
    page.wait_for_timeout(2500)  # what is recorded: the browser's own test tone
    button.click()
    page.wait_for_selector("#compare .box audio")
    assert "recording.wav" in page.locator("#compare .pick").first.inner_text()
    page.locator("#compare input[type=file]").nth(1).set_input_files(voices / "s00" / "0.flac")
    press(page, "compare", ".verdict")
    assert page.inner_text("#compare .word") in ("Match", "No match", "Could not decide")
    page.click("nav a[href='#people']")
    assert page.locator("#people [name=store_pictures]").is_hidden()
