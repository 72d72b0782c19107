"""Opens pages in a headless Chromium and inspects them over its DevTools protocol.

aiohttp, which is installed anyway, speaks the protocol, so that no driver and no downloaded browser is needed.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
from dataclasses import dataclass, field

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")
START_SECONDS = 60

# Runs in the page; it opens all folded parts first.
_FIND = r"""(() => {
  document.querySelectorAll("details").forEach(one => { one.open = true; });
  const root = document.documentElement;
  const size = box => [box.width, box.height];
  const colors = (within, selector, which = () => true) => [...new Set(
    [...within.querySelectorAll(selector)].filter(which)
      .map(one => (one.getAttribute("style") || "").match(/--series-\d/)).filter(found => found).map(found => found[0])
  )].sort();
  const plots = [...document.querySelectorAll("svg")].map(svg => ({
    title: svg.querySelector("title").textContent,
    size: size(svg.getBoundingClientRect()),
    // Colours of the legend, and of what is drawn and can be seen.
    told: colors(svg.closest("figure") || svg, ".legend span"),
    drawn: colors(svg, "path", path => {
      const box = path.getBoundingClientRect(), style = getComputedStyle(path);
      return box.width + box.height > 0 && style.visibility === "visible" && !path.closest("defs")
        && [style.stroke, style.fill].some(color => color.startsWith("rgb("));
    }),
    // Text is drawn as paths, of glyphs that are 100 units high.
    text: [...svg.querySelectorAll('g[id*="text_"] g[transform*="scale("]')].map(one => {
      const at = one.getScreenCTM();
      return 100 * Math.hypot(at.b, at.d);
    }),
  }));
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (walker.currentNode.data.trim() && !element.closest("svg")) {
      texts.push(parseFloat(getComputedStyle(element).fontSize));
    }
  }
  // What sticks out of the page, and does not scroll within a region of its own.
  const outside = [...document.querySelectorAll("body *")].filter(one =>
    !one.parentElement.closest(".scroll, pre, svg") && one.getBoundingClientRect().right > root.clientWidth + 0.5
  ).map(one => one.tagName + " " + one.textContent.slice(0, 40));
  return {
    plots, outside, text: Math.min(...texts), scroll: root.scrollWidth, width: root.clientWidth,
    background: getComputedStyle(document.body).backgroundColor,
  };
})()"""


@dataclass
class Seen:
    """The appearance of a page.

    Attributes:
      found: what `_FIND` returns.
      errors: messages of the console, and exceptions.
      requests: addresses that were asked for, the page's own left out.
      picture: PNG of the whole page.
    """

    found: dict
    errors: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    picture: bytes = b""


def missing():
    """Returns what is missing on this machine, or "" if nothing is."""
    if any(map(shutil.which, NAMES)):
        return ""
    return f"there is none of {', '.join(NAMES)}: apt-get install chromium"


@contextlib.contextmanager
def browser(folder):
    """Runs a browser; yields the address of its protocol."""
    program = next(filter(None, map(shutil.which, NAMES)))
    command = [
        program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
        f"--user-data-dir={folder}", "about:blank",
    ]  # fmt: skip
    port = folder / "DevToolsActivePort"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + START_SECONDS
        while not (port.exists() and port.read_text().count("\n")):
            assert process.poll() is None, f"{program} ended with {process.returncode}"
            assert time.monotonic() < end, f"{program} does not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port.read_text().splitlines()[0]}"
    finally:
        process.terminate()
        process.wait(20)


def look(address, path, width, dark=False):
    """Opens a page in a window of this width, in CSS pixels."""
    return asyncio.run(asyncio.wait_for(_look(address, path.as_uri(), width, dark), 60))


async def _look(address, url, width, dark):
    async with aiohttp.ClientSession() as session:
        async with session.put(f"{address}/json/new?about:blank") as answer:
            tab = await answer.json(content_type=None)
        async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            seen = Seen({})
            numbers, loaded = itertools.count(1), False

            async def receive():
                nonlocal loaded
                message = json.loads((await socket.receive()).data)
                method, told = message.get("method"), message.get("params", {})
                loaded |= method == "Page.loadEventFired"
                if method == "Network.requestWillBeSent" and told["request"]["url"] != url:
                    seen.requests.append(told["request"]["url"])
                if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                    seen.errors.append(json.dumps(told))
                if method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                    seen.errors.append(told["entry"]["text"])
                return message

            async def call(method, **parameters):
                number = next(numbers)
                await socket.send_json({"id": number, "method": method, "params": parameters})
                while (message := await receive()).get("id") != number:
                    pass
                assert "error" not in message, message
                return message["result"]

            for domain in ("Page", "Runtime", "Log", "Network"):
                await call(f"{domain}.enable")
            await call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=900,
                deviceScaleFactor=1,
                mobile=width < 600,
            )
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            await call("Emulation.setEmulatedMedia", features=[scheme])
            await call("Page.navigate", url=url)
            while not loaded:
                await receive()
            picture = await call("Page.captureScreenshot", captureBeyondViewport=True)
            seen.picture = base64.b64decode(picture["data"])
            answer = await call("Runtime.evaluate", expression=_FIND, returnByValue=True)
            assert "exceptionDetails" not in answer, answer
            seen.found = answer["result"]["value"]
        async with session.get(f"{address}/json/close/{tab['id']}"):
            return seen
