"""Opens an HTML file in Chromium as it is printed and as a screen shows it, and prints as JSON what was measured.

    browser.py FILE WIDTH [PICTURE ID TO…]

WIDTH is that of the paper without its margins, in CSS pixels. Each PICTURE is a PNG of the page from the element ID on, up to the
element TO (`-` is the page's end). The browser is spoken to through two pipes, in its own protocol: one JSON message after the
other, each ended by a zero byte.
"""

import base64
import fcntl
import json
import os
import pathlib
import subprocess
import sys
import tempfile

MEASURE = """(() => {
    const page = document.documentElement, name = e => `${e.tagName}.${e.getAttribute('class') ?? ''} ${e.textContent.slice(0, 40)}`;
    const all = [...document.body.querySelectorAll('*')].filter(e => e.getClientRects().length);
    const isText = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    const inside = (a, b) => a.left >= b.left - 1 && a.right <= b.right + 1 && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
    const size = e => {
        const own = parseFloat(getComputedStyle(e).fontSize), svg = e.closest('svg');
        return svg ? own * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : own;
    };
    return {
        width: page.clientWidth, needs: page.scrollWidth,
        outside: all.filter(e => { const r = e.getBoundingClientRect(); return r.right > page.clientWidth + 1 || r.left < -1; }).map(name),
        cut: all.filter(e => ['TD', 'TH', 'DD', 'LI', 'P'].includes(e.tagName) && e.scrollWidth > e.clientWidth + 1
                             && getComputedStyle(e).display !== 'inline').map(name),
        letters: Math.min(...all.filter(isText).map(size)),
        fonts: [...new Set(all.filter(isText).map(e => getComputedStyle(e).fontFamily))],
        charts: [...document.querySelectorAll('figure')].map(f => {
            const svg = f.querySelector('svg'), box = svg.getBoundingClientRect();
            return {
                id: f.id, width: box.width, height: box.height,
                bars: [...svg.querySelectorAll('rect')].filter(b => b.getBoundingClientRect().width > 0.5).length,
                colours: [...new Set([...svg.querySelectorAll('rect')].map(b => getComputedStyle(b).fill))],
                outside: [...svg.querySelectorAll('rect, text')].filter(e => !inside(e.getBoundingClientRect(), box)).map(name),
                touching: (() => {
                    const boxes = [...svg.querySelectorAll('text')].map(e => [e, e.getBoundingClientRect()]);
                    return boxes.flatMap(([e, a], i) => boxes.slice(i + 1).filter(([, b]) => a.left < b.right - 1 && b.left < a.right - 1
                        && a.top < b.bottom - 4 && b.top < a.bottom - 4).map(([o]) => name(e) + ' / ' + name(o)));
                })(),
            };
        }),
        scripts: document.scripts.length,
        handlers: [...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length,
        headings: [...document.querySelectorAll('h2')].map(h => h.textContent),
        dead: [...document.querySelectorAll('a[href^="#"]')].map(a => a.getAttribute('href').slice(1)).filter(id => !document.getElementById(id)),
    };
})()"""


class Browser:
    """A browser of its own, which ends with this process."""

    def __init__(self, folder):
        # Out of the way of 3 and 4, which it reads from and writes to.
        ours, theirs = ([fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe()] for _ in range(2))
        os.dup2(ours[0], 3)
        os.dup2(theirs[1], 4)
        self.process = subprocess.Popen(
            ["chromium-headless-shell", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--force-color-profile=srgb", "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(3, 4), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for end in (3, 4, ours[0], theirs[1]):
            os.close(end)
        self.to, self.of = os.fdopen(ours[1], "wb"), os.fdopen(theirs[0], "rb")
        self.last, self.rest, self.session, self.asked = 0, b"", None, []

    def read(self):
        """The next message."""
        while b"\0" not in self.rest:
            more = self.of.read1(1 << 16)
            if not more:
                sys.exit("the browser ended: " + self.process.stderr.read().decode(errors="replace"))
            self.rest += more
        message, self.rest = self.rest.split(b"\0", 1)
        message = json.loads(message)
        if message.get("method") == "Network.requestWillBeSent":
            self.asked.append(message["params"]["request"]["url"])
        return message

    def ask(self, method, **parameters):
        """What the browser answers."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.to.write(json.dumps(message).encode() + b"\0")
        self.to.flush()
        while True:
            answer = self.read()
            if answer.get("id") == self.last:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, path):
        """Loads a file and waits until it is there."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Page.enable")
        self.ask("Network.enable")
        self.ask("Page.navigate", url=pathlib.Path(path).resolve().as_uri())
        while self.read().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression):
        """An expression's value."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            sys.exit(str(answer["exceptionDetails"]))
        return answer["result"]["value"]

    def shape(self, width, height, media):
        """The window, and whether it is one."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", media=media)


def main():
    """Measures on paper and on a screen, then takes the pictures."""
    path, width, pictures = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(folder)
        browser.open(path)
        browser.shape(width, 1000, "print")
        told = {"paper": browser.evaluate(MEASURE)}
        pdf = base64.b64decode(browser.ask("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])
        told["pages"] = pdf.count(b"/Type /Page\n")
        browser.shape(1100, 900, "screen")
        told["screen"] = browser.evaluate(MEASURE)
        told["asked"] = [url for url in browser.asked if not url.startswith("file:")]
        browser.shape(900, 900, "screen")
        for picture, first, last in zip(pictures[::3], pictures[1::3], pictures[2::3]):
            top = f"document.getElementById({json.dumps(first)}).getBoundingClientRect().top + scrollY"
            end = "document.documentElement.scrollHeight" if last == "-" else top.replace(json.dumps(first), json.dumps(last))
            from_, to = browser.evaluate(top) - 16, browser.evaluate(end)
            clip = {"x": 0, "y": max(from_, 0), "width": 900, "height": min(to - from_, 1600), "scale": 1}
            png = browser.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
            pathlib.Path(picture).write_bytes(base64.b64decode(png))
        browser.process.kill()
        browser.process.wait()
    json.dump(told, sys.stdout)


main()
