"""The book in a browser, opened from its folder with the network cut: what a reader gets.

Chromium is Debian's, driven by Playwright; without either the tests skip and say so. ``COURSE_BOOK_HTML`` names another
build than ``_build/html``.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import itertools
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from book_fixtures import built_book, toc_pages

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
bs4 = pytest.importorskip("bs4", reason="beautifulsoup4 is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path (Debian: apt-get install chromium)")

PAGES = toc_pages()
DESKTOP, PHONE = (1280, 900), (390, 844)
CONTRAST = 4.5
"""WCAG 2.1 AA for text; large text may have 3."""
WEIGHT = 1.5e6
"""Bytes of a page with its images."""


@dataclass
class Visit:
    """An open page, and all that went wrong or left the machine since it was opened."""

    page: object
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    file: Path | None = None
    theme: str = "light"

    def open(self, address: str) -> Visit:
        self.page.goto(address)
        self.page.evaluate(SETTLED)
        return self


# Formulas are drawn, fonts are there, images are decoded, the theme has run its scripts.
SETTLED = """async () => {
  const deadline = Date.now() + 20000;
  const pause = () => new Promise((done) => setTimeout(done, 20));
  if (document.readyState !== "complete") await new Promise((done) => window.addEventListener("load", done));
  if (window.MathJax) {
    while (!(MathJax.startup && MathJax.startup.promise) && Date.now() < deadline) await pause();
    await MathJax.startup.promise;
  }
  await document.fonts.ready;
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
  // Colours fade in when the theme is set; look at where they end.
  for (const animation of document.getAnimations()) {
    if (animation.effect.getComputedTiming().endTime < Infinity) animation.finish();
  }
}"""

IMAGES = """() => [...document.images].map((image) => ({
  src: image.currentSrc || image.src, width: image.naturalWidth, alt: (image.alt || "").trim(),
}))"""

FORMULAS = """() => ({
  sources: document.querySelectorAll("span.math, div.math").length,
  undrawn: [...document.querySelectorAll("span.math, div.math")]
    .filter((box) => !box.querySelector("mjx-container")).map((box) => box.textContent),
  empty: [...document.querySelectorAll("mjx-container")].filter((box) => box.getBoundingClientRect().width < 2).length,
  errors: [...document.querySelectorAll("mjx-merror, [data-mjx-error]")].map((box) => box.textContent),
  fonts: [...document.fonts].filter((font) => font.family.startsWith("MJX") && font.status === "error")
    .map((font) => font.family),
  text: (document.querySelector("article") || document.body).innerText,
})"""

# The contrast of every visible piece of text with what is behind it: colours are laid over each other from the
# outermost element inwards, transparency included.
LOW_CONTRAST = """(least) => {
  const parse = (text) => {
    const numbers = (text.match(/[\\d.]+/g) || []).map(Number);
    const scale = text.startsWith("color(") ? 255 : 1;
    return numbers.length < 3 ? [0, 0, 0, 0]
      : [numbers[0] * scale, numbers[1] * scale, numbers[2] * scale, numbers.length > 3 ? numbers[3] : 1];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const luminance = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92
      : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const dark = document.documentElement.dataset.theme === "dark";
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let checked = 0;
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    if (!node.textContent.trim() || element.closest("script, style, noscript, svg, mjx-assistive-mml")) continue;
    if (!element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })) continue;
    const box = element.getBoundingClientRect();
    if (box.width < 2 || box.height < 2) continue;
    const chain = [];
    for (let e = element; e; e = e.parentElement) chain.unshift(e);
    let behind = dark ? [0, 0, 0, 1] : [255, 255, 255, 1], opacity = 1;
    for (const e of chain) {
      const style = getComputedStyle(e);
      behind = over(parse(style.backgroundColor), behind);
      opacity *= Number(style.opacity);
    }
    const style = getComputedStyle(element);
    const colour = parse(style.color);
    const front = over([...colour.slice(0, 3), colour[3] * opacity], behind);
    const [light, low] = [luminance(front), luminance(behind)].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (low + 0.05);
    const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
    const needed = size >= 24 || (bold && size >= 18.66) ? Math.min(3, least) : least;
    checked += 1;
    if (ratio < needed) {
      const where = element.className ? `${element.tagName}.${element.className}` : element.tagName;
      found.push(`${ratio.toFixed(2)} for ${style.color} in ${where}: ${node.textContent.trim().slice(0, 40)}`);
    }
  }
  return { checked, found };
}"""


@pytest.fixture(scope="module")
def book() -> Path:
    return built_book()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def opening(browser, address, theme: str = "light", size: tuple = DESKTOP, server: str = "", **options):
    """Open an address and close it afterwards. The network is cut, unless ``server`` says what may be asked."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme, **options)
    context.set_offline(not server)
    page = context.new_page()
    page.set_default_timeout(30_000)
    result = Visit(page)

    def record(request) -> None:
        if request.url.startswith(("http:", "https:", "ws:", "wss:")) and not (server and server in request.url):
            result.requests.append(request.url)

    page.on("request", record)
    page.on("console", lambda message: message.type == "error" and result.errors.append(message.text))
    page.on("pageerror", lambda error: result.errors.append(str(error)))
    page.on("requestfailed", lambda request: result.errors.append(f"failed: {request.url}"))
    try:
        yield result.open(address if "://" in str(address) else Path(address).as_uri())
    finally:
        context.close()


@pytest.fixture
def visit(browser):
    with contextlib.ExitStack() as stack:
        yield lambda *address, **options: stack.enter_context(opening(browser, *address, **options))


# Opening a page is what takes time, so each is opened once a theme, and all that only looks looks at that one.


@pytest.fixture(scope="module", params=itertools.product(PAGES, ("light", "dark")), ids="-".join)
def desktop(request, browser, book):
    page, theme = request.param
    with opening(browser, book / f"{page}.html", theme) as opened:
        opened.file, opened.theme = book / f"{page}.html", theme
        yield opened


@pytest.fixture(scope="module", params=PAGES)
def phone(request, browser, book):
    with opening(browser, book / f"{request.param}.html", size=PHONE) as opened:
        yield opened


def test_opens_from_a_folder_without_error_or_network(desktop):
    assert desktop.errors == []
    assert desktop.requests == []


def test_images_load_and_have_a_description(desktop):
    for image in desktop.page.evaluate(IMAGES):
        assert image["width"] > 0, f"does not load: {image['src']}"
        assert image["alt"] and "_images/" not in image["alt"], f"no alt text: {image['src']}"


def test_formulas_are_drawn(desktop):
    source = bs4.BeautifulSoup(desktop.file.read_text(encoding="utf-8"), "html.parser")
    formulas = desktop.page.evaluate(FORMULAS)
    assert formulas["sources"] == len(source.select("span.math, div.math"))
    assert formulas["undrawn"] == []
    assert formulas["errors"] == []
    assert formulas["fonts"] == []
    assert formulas["empty"] == 0
    assert "$$" not in formulas["text"] and "\\(" not in formulas["text"] and "\\begin" not in formulas["text"]


def test_some_page_has_formulas(book, visit):
    """Were no formula found anywhere, the test above would say nothing."""
    assert visit(book / "book" / "how_to_use.html").page.evaluate(FORMULAS)["sources"] >= 5


def test_text_stands_out(desktop):
    assert desktop.page.evaluate("document.documentElement.dataset.theme") == desktop.theme
    contrast = desktop.page.evaluate(LOW_CONTRAST, CONTRAST)
    assert contrast["checked"] > 20
    assert contrast["found"] == []


def test_figures_fit_the_theme(desktop):
    """A figure has the page's background and strokes that stand out from it, in both themes."""
    image_module = pytest.importorskip("PIL.Image")
    for figure in desktop.page.query_selector_all("article img:not(.no-invert)"):
        figure.scroll_into_view_if_needed()
        picture = image_module.open(io.BytesIO(figure.screenshot())).convert("L")
        corner, (darkest, brightest) = picture.getpixel((2, 2)), picture.getextrema()
        if desktop.theme == "dark":
            assert corner < 60, "a bright card in the dark theme"
            assert brightest > 180, "nothing to be seen in the dark theme"
        else:
            assert corner > 220, "a dark card in the light theme"
            assert darkest < 100, "nothing to be seen in the light theme"


def test_fits_a_phone(phone):
    width = phone.page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE[0], f"the page is {width} pixels wide"
    assert phone.errors == []


@pytest.mark.parametrize("page", PAGES)
def test_is_light(book, page):
    path = book / f"{page}.html"
    images = {
        (path.parent / image["src"]).resolve()
        for image in bs4.BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").select("img[src]")
    }
    assert path.stat().st_size + sum(image.stat().st_size for image in images) <= WEIGHT


def test_search_finds_a_word_without_a_network(book, visit):
    opened = visit((book / "search.html").as_uri() + "?q=prototype")
    opened.page.wait_for_selector("#search-results li a")
    opened.page.wait_for_timeout(500)  # hits appear one after the other
    hits = opened.page.eval_on_selector_all("#search-results li a", "links => links.map((link) => link.href)")
    assert opened.errors == []
    assert opened.requests == []
    assert any("/book/glossary.html" in hit for hit in hits)
    if "chapters/03_prototypical" in PAGES:
        assert any("/chapters/03_prototypical.html" in hit for hit in hits)


def test_search_quotes_the_hits_where_it_may_fetch_them(book, visit):
    """Quotes are switched off for files alone; on a server they stay."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(book)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"127.0.0.1:{server.server_port}"
        opened = visit(f"http://{address}/search.html?q=prototype", server=address)
        opened.page.wait_for_selector("#search-results li p.context")
        assert opened.errors == []
        assert opened.requests == []
    finally:
        server.shutdown()
        server.server_close()


def test_the_reader_can_change_the_theme(book, visit):
    opened = visit(book / f"{PAGES[0]}.html", "light")
    for _ in range(3):  # the button goes round: light, dark, as the system
        opened.page.click(".theme-switch-button >> visible=true")
        if opened.page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
    assert opened.page.evaluate("document.documentElement.dataset.theme") == "dark"
    opened.page.reload()
    assert opened.page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_nothing_moves_for_readers_who_ask_for_that(book, visit):
    opened = visit(book / f"{PAGES[0]}.html", reduced_motion="reduce")
    slow = opened.page.evaluate(
        """() => [...document.querySelectorAll("*")].filter((element) => {
          const style = getComputedStyle(element);
          return [style.transitionDuration, style.animationDuration].join(",").split(",")
            .some((time) => parseFloat(time) > 0.001);
        }).length"""
    )
    assert slow == 0


PLANTED = r"""<!doctype html><html data-theme="light"><body>
<p style="color: #999; background: #fff">pale words</p><p style="color: #222; opacity: .3">faint words</p>
<p style="color: #222">good words</p>
<img src="absent.png" width="20"><img src="https://example.org/x.png" alt="far">
<div style="width: 900px">wide</div><span class="math">\(x\)</span>
<script>console.error("planted"); undefined_function();</script></body></html>"""


def test_planted_errors_are_found(visit, tmp_path):
    """Each check above on a page that deserves to fail it."""
    (tmp_path / "planted.html").write_text(PLANTED)
    opened = visit(tmp_path / "planted.html", size=PHONE)
    assert opened.requests == ["https://example.org/x.png"]
    assert "planted" in opened.errors and any("undefined_function" in error for error in opened.errors)
    images = opened.page.evaluate(IMAGES)
    assert [image["width"] for image in images] == [0, 0] and images[0]["alt"] == ""
    assert opened.page.evaluate("document.documentElement.scrollWidth") > PHONE[0]
    assert opened.page.evaluate(FORMULAS)["undrawn"] == [r"\(x\)"]
    found = opened.page.evaluate(LOW_CONTRAST, CONTRAST)["found"]
    assert len(found) == 2 and "pale" in found[0] and "faint" in found[1]
