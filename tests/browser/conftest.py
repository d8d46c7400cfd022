"""A real browser for the pages that the project writes and serves: Chromium, driven by Playwright."""

import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "tools"))
import chromium
from patience import PATIENCE
from playwright.sync_api import sync_playwright


@pytest.fixture(scope="session")
def browser():
    try:
        path = chromium.find()
    except chromium.NoChromiumError as problem:
        pytest.exit(str(problem), returncode=2)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path)
        yield running
        running.close()


@pytest.fixture
def open_page(browser):
    """open_page(url, width=1280, height=900, dark=False, **context options) -> Page, which remembers:

    page.requests: addresses of all requests; page.complaints: errors and warnings of the console, and uncaught ones.
    """
    contexts = []

    def open_page(url, width=1280, height=900, dark=False, **options):
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        context.set_default_timeout(1000 * PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.requests, page.complaints = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on(
            "console",
            lambda message: page.complaints.append(message.text) if message.type in ("error", "warning") else None,
        )
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
