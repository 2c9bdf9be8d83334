"""The HTML report in a real Chromium: complete, silent, harmless, and fit for a desk, a phone, the dark and paper."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import runs
from hostcheck.render.html import render_html
from hostcheck.render.safe import hidden

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip
SECONDS = 30.0


@dataclass
class Browser:
    """A Chromium spoken to over its debugging pipe (file descriptors 3 and 4, messages ended by NUL)."""

    to: Any
    back: Any
    session: str = ""
    sent: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.sent += 1
        message: dict[str, Any] = {"id": self.sent, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.to.write(json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self.sent:
            self.events.append(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def open(self, url: str, *, width: int = 1280, dark: bool = False, media: str = "", until: str = "load") -> None:
        """Load a page; `events` then holds what it caused, and nothing of earlier ones."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        loader = self.call("Page.navigate", url=url)["loaderId"]
        while not any(
            event["method"] == "Page.lifecycleEvent"
            and (event["params"]["loaderId"], event["params"]["name"]) == (loader, until)
            for event in self.events
        ):
            self.events.append(self._receive())

    def ask(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def requests(self) -> list[str]:
        return [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """Everything that a developer would see in the console."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Audits.issueAdded")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in kinds]

    def _receive(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self.back.read(1)) != b"\0":
            assert byte, "Chromium has gone"
            message += byte
        return dict(json.loads(message))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, NAMES)), "")
    if not found:
        why = f"no Chromium on PATH ({', '.join(NAMES)}); scripts/install-test-parts installs one"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    plumbing = f'exec "$@" 3</dev/fd/{theirs_in} 4>/dev/fd/{theirs_out}'
    process = subprocess.Popen(
        ["sh", "-c", plumbing, "sh", found, *FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"],
        pass_fds=(theirs_in, theirs_out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    watchdog = threading.Timer(8 * SECONDS, process.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        with os.fdopen(ours_out, "wb", buffering=0) as to, os.fdopen(ours_in, "rb") as back:
            made = Browser(to, back)
            target = made.call("Target.createTarget", url="about:blank")["targetId"]
            made.session = made.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log", "Audits"):
                made.call(f"{domain}.enable")
            made.call("Page.setLifecycleEventsEnabled", enabled=True)
            yield made
            made.session = ""
            made.call("Browser.close")
        process.wait(SECONDS)
    finally:
        process.kill()
        process.wait()
        watchdog.cancel()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("reports")
    urls = {}
    for name, make in runs.SAMPLES.items():
        page = folder / f"{name}.html"
        page.write_text(render_html(make()), "utf-8")
        urls[name] = page.as_uri()
    return urls


@pytest.mark.parametrize("name", list(runs.SAMPLES))
def test_page_loads_nothing_and_says_nothing(browser: Browser, pages: dict[str, str], name: str) -> None:
    browser.open(pages[name], until="networkIdle")

    assert [url for url in browser.requests() if url != pages[name] and not url.startswith("data:")] == []
    assert browser.complaints() == []
    assert browser.ask("document.contentType") == "text/html"
    assert browser.ask("document.compatMode") == "CSS1Compat"
    assert "(hostcheck)" in browser.ask("document.title")


@pytest.mark.parametrize("name", ["mixed", "huge", "healthy"])
def test_every_result_is_visible_without_a_click(browser: Browser, pages: dict[str, str], name: str) -> None:
    browser.open(pages[name])
    shown = browser.ask(
        "[...document.querySelectorAll('.result > summary')]"
        ".filter(row => row.checkVisibility() && row.getBoundingClientRect().height > 10)"
        ".map(row => [row.querySelector('.id').innerText, row.querySelector('.status').innerText])"
    )

    assert shown == [[each.id, each.status.replace("-", " ")] for each in runs.SAMPLES[name]().results]


def test_filter_hides_and_shows_without_a_script(browser: Browser, pages: dict[str, str]) -> None:
    browser.open(pages["mixed"])
    visible = "[...document.querySelectorAll('.result')].filter(row => row.checkVisibility()).length"
    passes = "[...document.querySelectorAll('.result[data-status=pass]')].filter(row => row.checkVisibility()).length"
    everything = browser.ask(visible)

    browser.ask("document.getElementById('show-pass').click()")
    assert browser.ask(passes) == 0
    assert browser.ask(visible) == everything - 2
    browser.ask("document.getElementById('show-critical').click()")
    assert browser.ask(visible) == everything - 3
    assert browser.ask("document.scripts.length") == 0


def test_link_to_a_check_opens_it(browser: Browser, pages: dict[str, str]) -> None:
    browser.open(pages["mixed"])
    browser.ask("document.querySelector('#do a[href=\"#check-gpu.row-remap\"]').click()")
    time.sleep(0.2)

    assert browser.ask("document.getElementById('check-gpu.row-remap').closest('details').open")


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("name", ["mixed", "hostile"])
def test_nothing_is_wider_than_the_window(browser: Browser, pages: dict[str, str], name: str, width: int) -> None:
    browser.open(pages[name], width=width)
    browser.ask("document.querySelectorAll('details').forEach(each => each.open = true)")

    assert browser.ask("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", range(320, 480, 20))
def test_no_option_is_broken_after_a_hyphen(browser: Browser, pages: dict[str, str], width: int) -> None:
    browser.open(pages["mixed"], width=width)
    browser.ask("document.querySelectorAll('details').forEach(each => each.open = true)")
    broken = "[...document.querySelectorAll('.option, .id code')].filter(each => each.offsetHeight > 32).length"

    assert browser.ask("document.querySelectorAll('.option').length") > 4
    assert browser.ask(broken) == 0


@pytest.mark.parametrize("dark", [False, True])
def test_contrast_is_sufficient(browser: Browser, pages: dict[str, str], dark: bool) -> None:
    """WCAG 2.2 AA asks for 4.5 to 1."""
    browser.open(pages["mixed"], dark=dark)
    browser.ask("document.querySelectorAll('details').forEach(each => each.open = true)")
    weak = browser.ask("""(() => {
        const parse = text => text.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
            .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
            .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
        const ground = node => {
            for (; node; node = node.parentElement) {
                const color = parse(getComputedStyle(node).backgroundColor);
                if (color.length === 3 || color[3] > 0) return color;
            }
        };
        const weak = [];
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        for (let seen = 0; walker.nextNode(); seen++) {
            if (!walker.currentNode.data.trim()) continue;
            const node = walker.currentNode.parentElement;
            const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
            if ((a + 0.05) / (b + 0.05) < 4.5) weak.push(node.className + ': ' + node.innerText);
        }
        return weak;
    })()""")
    background = browser.ask("getComputedStyle(document.body).backgroundColor")

    assert weak == []
    assert (background == "rgb(22, 22, 21)") is dark


def test_paper_shows_what_is_folded_away(browser: Browser, pages: dict[str, str]) -> None:
    details = "[...document.querySelectorAll('.more')].map(each => each.checkVisibility())"
    browser.open(pages["mixed"])
    assert set(browser.ask(details)) == {False}
    browser.open(pages["mixed"], media="print")

    assert set(browser.ask(details)) == {True}
    assert not browser.ask("document.querySelector('.filter').checkVisibility()")


def test_structure_is_sound(browser: Browser, pages: dict[str, str]) -> None:
    browser.open(pages["mixed"])

    assert browser.ask("document.querySelectorAll('h1').length") == 1
    assert browser.ask("document.documentElement.lang") == "en"
    levels = browser.ask("[...document.querySelectorAll('h1,h2,h3,h4')].map(each => Number(each.tagName[1]))")
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert browser.ask("[...document.querySelectorAll('th')].every(each => each.scope)")
    assert browser.ask("[...document.querySelectorAll('input')].every(each => each.labels.length === 1)")
    missing = "[...document.querySelectorAll('a[href^=\"#\"]')].filter(a => !document.getElementById(a.hash.slice(1)))"
    assert browser.ask(f"{missing}.map(a => a.hash)") == []
    ids = browser.ask("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids))


def test_hostile_text_stays_text(browser: Browser, pages: dict[str, str]) -> None:
    browser.open(pages["hostile"])

    assert browser.ask("document.querySelectorAll('script, img, iframe, object, link:not([rel=icon])').length") == 0
    hrefs = browser.ask("[...document.links].map(each => each.getAttribute('href'))")
    assert [href for href in hrefs if not href.startswith("#")] == []
    assert browser.ask("document.body.textContent.includes('<script>alert(1)</script>')")
    assert {each for each in browser.ask("document.body.textContent") if hidden(each)} <= {"\n"}


def test_instruments_see_what_they_are_to_see(browser: Browser, tmp_path: Path) -> None:
    """A request and a console error of a page that has them are noticed; else the tests above would prove nothing."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    image = f"http://127.0.0.1:{server.server_port}/x.png"
    page = tmp_path / "bad.html"
    page.write_text(f'<!doctype html><title>bad</title><img src="{image}"><script>console.error("no")</script>')
    threading.Thread(target=server.handle_request, daemon=True).start()
    browser.open(page.as_uri(), until="networkIdle")
    server.server_close()

    assert image in browser.requests()
    assert any("consoleAPICalled" in event["method"] for event in browser.events)
    assert browser.complaints()
