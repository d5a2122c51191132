"""A headless Chromium that writes down every request, message and error of a page."""

import importlib.util
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--font-render-hinting=none",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)


def _load(name):
    spec = importlib.util.spec_from_file_location(f"report_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make_out():
    """The generator of output folders."""
    return _load("synthetic_out").make_out


@pytest.fixture(scope="session")
def triage():
    """Writes what triage leaves beside a scan."""
    return _load("triaged").triage


@pytest.fixture(scope="session")
def out(make_out, tmp_path_factory):
    """One finished scan, as files, and its name."""
    folder = tmp_path_factory.mktemp("out")
    return folder, make_out(folder)


@dataclass
class Opened:
    """A page and what happened on it."""

    page: object
    requests: list = field(default_factory=list)
    messages: list = field(default_factory=list)
    errors: list = field(default_factory=list)

    def goto(self, address):
        self.page.goto(address)
        # A selector, not an expression: the page's policy forbids eval, the test's own included.
        self.page.wait_for_selector("html[data-ready=true]", state="attached", timeout=30_000)
        return self

    def choose(self, label):
        self.page.evaluate("label => LW.choose(label)", label)
        self.settle()

    def settle(self):
        """Two frames: whatever was asked for is drawn."""
        self.page.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 30))))"
        )

    @property
    def outside(self):
        """Requests that left the page, beyond the page itself."""
        return [url for url in self.requests[1:] if not url.startswith(("data:", "blob:"))]


@pytest.fixture(scope="session")
def chromium():
    """Debian's Chromium, driven by playwright."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def best_load_ms(open_page):
    """Milliseconds from navigation until a page answers: the best of up to three loads, as a machine may be busy."""

    def measured(path, limit_ms, *, tries=3):
        best = float("inf")
        for _ in range(tries):
            opened = open_page(path)
            best = min(best, opened.page.evaluate("performance.getEntriesByName('ready')[0].startTime"))
            if best < limit_ms:
                break
        return best

    return measured


@pytest.fixture
def open_page(chromium):
    """Opens a page in a fresh context; closed at the end of the test."""
    contexts = []

    def opened(address, *, width=1280, height=800, **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        found = Opened(context.new_page())
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("console", lambda message: found.messages.append((message.type, message.text)))
        found.page.on("pageerror", lambda error: found.errors.append(str(error)))
        return found.goto(Path(address).as_uri() if not str(address).startswith("http") else str(address))

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def page_file(out):
    """The page of that scan."""
    from lesionwise.report.page import write_scan_report

    return write_scan_report(*out, out[0] / "report.html")
