"""A browser, and the pages that are opened in it."""

import shutil

import pytest


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    from playwright import sync_api

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visits:
    """Opens pages, and keeps what they say, stumble over and ask for."""

    def __init__(self, browser):
        self._browser, self._contexts = browser, []
        self.complaints, self.requests = [], []

    def open(self, address, **options):
        context = self._browser.new_context(**options)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(address)
        return page

    def close(self):
        for context in self._contexts:
            context.close()


@pytest.fixture
def visits(browser):
    return Visits(browser)
