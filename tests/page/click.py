"""Clicks through the status page in a real browser, as a user does, and takes pictures of it.

    cargo build && python3 tests/page/click.py target/debug/kioskd [FOLDER FOR THE PICTURES]

It needs Debian's `chromium` and `chromium-driver` (apt-get install --no-install-recommends chromium
chromium-driver) and nothing else but Python. They are hundreds of MB, so tests/run does not do this; it is for whoever
changes the page. It drives headless Chromium over WebDriver (https://www.w3.org/TR/webdriver2/) and ends with 1 and the
reason when something is not as it should be, or is not there.
"""

import base64
import http.server
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

PATIENCE = 60
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
MISCHIEF = '<img src=x onerror="document.title=\'owned\'">'


def call(url, method="GET", body=None, headers=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{method} {url}: {error.code} {error.read().decode()[:600]}") from error


def first_line(process, pattern):
    """Reads what a process writes until it says where it listens."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(pattern, line):
            return found[1]
    raise SystemExit("".join(lines) + f"ended before it said {pattern}")


class Kioskd:
    """The service, started with these settings."""

    def __init__(self, binary, **settings):
        environment = {"LISTEN": "127.0.0.1:0", **settings}
        self.process = subprocess.Popen([binary], env=environment, stdout=subprocess.PIPE, text=True)
        self.address = first_line(self.process, r"listening on (\S+)")
        self.url = f"http://{self.address}/"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.process.stdout.close()


class KeepsMetrics:
    """A proxy that passes reads on, but for those of /metrics."""

    def __init__(self, kioskd):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path == "/metrics":
                    return self.send_error(404)
                passed = urllib.request.Request(kioskd.url + self.path[1:], headers={"Accept": self.headers["Accept"]})
                try:
                    answer = urllib.request.urlopen(passed, timeout=PATIENCE)
                except urllib.error.HTTPError as error:
                    answer = error
                with answer:
                    body = answer.read()
                    self.send_response(answer.status)
                    for name in ("Content-Type", "Content-Security-Policy", "Content-Length"):
                        if answer.headers[name]:
                            self.send_header(name, answer.headers[name])
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()


class Browser:
    """A headless Chromium."""

    def __init__(self):
        for name in ("chromium", "chromedriver"):
            if not shutil.which(name):
                raise SystemExit(f"no {name}: apt-get install --no-install-recommends chromium chromium-driver")
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        port = first_line(self.driver, r"started successfully on port (\d+)")
        base = f"http://127.0.0.1:{port}/session"
        # Without a sandbox, since a container's root cannot have one; no page but ours is opened.
        options = {"binary": shutil.which("chromium"), "args": ["--headless=new", "--no-sandbox", "--disable-gpu",
                   "--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = json.loads(call(base, "POST", {"capabilities": {"alwaysMatch": wanted}}))
        self.session = f"{base}/{made['value']['sessionId']}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            call(self.session, "DELETE")
        finally:
            self.driver.terminate()
            self.driver.wait(PATIENCE)

    def do(self, method, path, **body):
        return json.loads(call(self.session + path, method, body if method == "POST" else None))["value"]

    def script(self, text, *arguments):
        return self.do("POST", "/execute/sync", script=text, args=arguments)

    def devtools(self, command, **parameters):
        return self.do("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def open(self, url):
        self.do("POST", "/url", url=url)

    def element(self, css):
        return self.do("POST", "/element", using="css selector", value=css)[ELEMENT]

    def text(self, name):
        return self.script("return document.getElementById(arguments[0]).textContent", name)

    def fill(self, name, text):
        element = self.element(f"#{name}")
        self.do("POST", f"/element/{element}/clear")
        if text:
            self.do("POST", f"/element/{element}/value", text=text)

    def press(self, css):
        self.do("POST", f"/element/{self.element(css)}/click")

    def keys(self, *keys):
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.do("POST", "/actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def wait(self, what, is_so):
        until = time.monotonic() + PATIENCE
        while not (found := is_so()):
            if time.monotonic() > until:
                everything = self.script("return document.body.innerText")
                raise SystemExit(f"waited in vain for {what}; the page says:\n{everything}")
            time.sleep(0.05)
        return found

    def sees(self, name, pattern):
        return self.wait(f"{pattern} in #{name}", lambda: re.search(pattern, self.text(name), re.S))

    def complaints(self):
        """What the console says, but for answers that a test wants to be errors, and the icon that there is none of."""
        entries = self.do("POST", "/se/log", type="browser")
        return [e["message"] for e in entries if "Failed to load resource" not in e["message"]]

    def picture(self, path, width, theme):
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        wide = self.script("return [document.documentElement.scrollWidth, innerWidth]")
        check(wide[0] <= wide[1], f"{path.name}: {wide[0]} pixels of content in {wide[1]}")
        taken = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def widths_and_themes(self, pictures, name):
        for width in (360, 1280):
            for theme in ("light", "dark"):
                self.picture(pictures / f"{name}-{width}-{theme}.png", width, theme)
        self.check_contrast(name)

    def check_contrast(self, name):
        """WCAG 2.2, 1.4.3: 4.5 to 1 for every text that is seen, in both themes."""
        for theme in ("light", "dark"):
            self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
            bad = self.script(CONTRAST)
            check(not bad, f"{name} {theme}: too little contrast: {bad}")


CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
const rgb = (colour, under) => {
  canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
  canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b; };
const probe = document.body.appendChild(document.createElement('p'));
probe.style.background = 'Canvas';
const canvasColour = getComputedStyle(probe).backgroundColor;
probe.remove();
return [...document.querySelectorAll('body *')].filter(e => e.offsetParent && [...e.childNodes].some(n =>
  n.nodeType === 3 && n.data.trim())).map(e => {
  let under = canvasColour;
  for (let at = e; at; at = at.parentElement) {
    const own = getComputedStyle(at).backgroundColor;
    if (own !== 'rgba(0, 0, 0, 0)') { under = own; break; }
  }
  const [a, b] = [light(rgb(getComputedStyle(e).color, under)), light(rgb(under, under))].sort((x, y) => y - x);
  return [e.tagName, e.id, e.className, +((a + .05) / (b + .05)).toFixed(2)];
}).filter(e => e[3] < 4.5);
"""


def check(is_so, what):
    if not is_so:
        raise SystemExit(what)


def send(browser, method, pattern):
    """Presses a button; gives the request and the answer that are shown."""
    browser.script("document.getElementById('outcome').textContent = ''")
    browser.press(f"button[value={method}]")
    browser.sees("outcome", pattern)
    return browser.text("request"), browser.text("answer")


def items(browser, bearer=""):
    """Put, read, change, delete; an id and a document that would be markup. `bearer`: the line of the token."""
    document = json.dumps({"name": MISCHIEF})
    path = "/items?id=%3Cimg+src%3Dx+onerror%3D%22document.title%3D%27owned%27%22%3E"
    browser.fill("id", MISCHIEF)
    browser.fill("document", document)
    browser.fill("ttl", "60")
    request, answer = send(browser, "PUT", "^PUT: 201 Created$")
    check(request == f"PUT {path}&ttl=60\nContent-Type: application/json\n{bearer}\n{document}", request)
    tag = re.search(r'^etag: ("[0-9a-f]{32}")$', answer, re.M)
    check(answer.startswith("201 Created\n") and tag, answer)

    request, answer = send(browser, "GET", "^GET: 200 OK$")
    check(request == f"GET {path}\n{bearer}\n", request)
    check(answer.endswith(f"\n\n{document}") and tag[0] in answer, answer)

    browser.fill("document", '{"name": null, "age": 41}')
    request, answer = send(browser, "PATCH", "^PATCH: 200 OK$")
    check(request.startswith(f"PATCH {path}&ttl=60\nContent-Type: application/merge-patch+json\n{bearer}\n"), request)
    check(answer.endswith('\n\n{"age":41}'), answer)

    request, answer = send(browser, "DELETE", "^DELETE: 204 No Content$")
    check(request == f"DELETE {path}\n{bearer}\n", request)
    request, answer = send(browser, "GET", "^GET: 404 Not Found$")
    check('"code":"not_found"' in answer, answer)
    browser.fill("document", "oops")
    request, answer = send(browser, "PUT", "^PUT: 400 Bad Request$")
    check('"code":"bad_json"' in answer, answer)
    browser.fill("document", document)
    browser.fill("ttl", "")
    send(browser, "PUT", "^PUT: 201 Created$")
    request, answer = send(browser, "GET", "^GET: 200 OK$")
    found = browser.script("return [document.title, document.querySelectorAll('img').length]")
    check(found == ["kioskd", 0], f"a document became markup: {found}")


def figures(browser, kioskd):
    browser.sees("state", "^ready$")
    browser.sees("version", r"^\d+\.\d+\.\d+$")
    browser.sees("store", "^memory$")
    browser.sees("up", "^answers$")
    browser.sees("uptime", r"^0 d 00:0\d:\d\d$")
    browser.sees("draining", "^no$")
    browser.sees("connections", r"^[1-9]\d* of [1-9]\d+$")
    browser.sees("buffers", r"^[\d.]+ of [1-9]\d+$")
    browser.sees("failures", "^none$")
    browser.sees("rate", r"^0\.0/s$")
    browser.sees("p99", "^no requests$")
    # Requests of others, for a while, so that there is something to draw.
    for n in range(400):
        call(f"{kioskd.url}items?id={n % 40}", "POST", {"n": n})
        if n % 40 == 0:
            time.sleep(0.6)
    browser.sees("p99", r"^(≤ [\d.]+ ms|> 2\.5 s)$")
    check(re.search(r"^[1-9][\d.]*/s$|^0\.[1-9]/s$", browser.text("r0")), "2xx " + browser.text("r0"))
    for name in ("rates", "times"):
        bars = "return [...document.getElementById(arguments[0]).children].filter(r => r.getBBox().height > 0).length"
        drawn = browser.script(bars, name)
        check(drawn, f"nothing is drawn in #{name}")


def keyboard(browser):
    """Every control is reached by Tab in the order of the page, is named, and is seen to have the focus."""
    seen = []
    for _ in range(10):
        browser.keys("\ue004")
        seen.append(browser.script("const e = document.activeElement; return e.id || e.value || e.tagName"))
        outline = browser.script("return getComputedStyle(document.activeElement).outlineStyle")
        check(outline == "solid" or seen[-1] == "BODY", f"no visible focus on {seen[-1]}: {outline}")
    order = ["id", "document", "ttl", "GET", "PUT", "PATCH", "DELETE", "request", "answer"]
    at = seen.index("id") if "id" in seen else 0
    # Between its end and its beginning is the browser itself.
    check(seen[at:] + seen[:at] == [*order, "BODY"], f"focus order {seen}")
    tree = browser.devtools("Accessibility.getFullAXTree")["nodes"]
    for node in tree:
        role = node.get("role", {}).get("value")
        if role in ("textbox", "button", "image") and not node.get("ignored"):
            check(node.get("name", {}).get("value"), f"a {role} without a name")
    browser.fill("id", "7")
    browser.script("document.getElementById('outcome').textContent = ''")
    browser.press("#id")
    browser.keys("\ue007")
    browser.sees("outcome", "^GET: ")


def main(binary, pictures):
    pictures.mkdir(parents=True, exist_ok=True)
    with Browser() as browser:
        with Kioskd(binary) as kioskd:
            browser.open(kioskd.url)
            figures(browser, kioskd)
            items(browser)
            keyboard(browser)
            send(browser, "GET", "^GET: 200 OK$")
            browser.widths_and_themes(pictures, "status")
            check(not (said := browser.complaints()), f"the console says {said}")
            print("ok: figures, items, keyboard, both themes, both widths")

            # Nothing is asked while nobody looks, and again as soon as somebody does.
            counted = lambda: int(re.search(
                r'requests_total\{route="readyz",method="GET",status="2xx"\} (\d+)',
                call(f"{kioskd.url}metrics").decode())[1])
            hide = "Object.defineProperty(document, 'hidden', { get: () => arguments[0], configurable: true });" \
                "document.dispatchEvent(new Event('visibilitychange'))"
            browser.script(hide.replace("arguments[0]", "true"))
            time.sleep(2.5)
            before = counted()
            time.sleep(5)
            check(counted() == before, "a hidden page asks")
            browser.script(hide.replace("arguments[0]", "false"))
            browser.wait("a page that is seen again to ask", lambda: counted() > before)
            print("ok: it stops while it is hidden")
        browser.sees("state", "^no answer: ")
        with Kioskd(binary, LISTEN=kioskd.address):
            browser.sees("note", "^Another process answers")
            browser.sees("state", "^ready$")
            browser.sees("version", r"^\d")
            print("ok: it sees a restart")

        with Kioskd(binary, AUTH_TOKENS="a:secret-a") as kioskd:
            browser.open(kioskd.url)
            browser.sees("note", "^A token is needed")
            browser.sees("state", "^ready$")
            browser.widths_and_themes(pictures, "token")
            browser.fill("token", "wrong")
            browser.press("#auth button")
            browser.sees("note", "^This token is unknown")
            browser.fill("token", "secret-a")
            browser.press("#auth button")
            browser.sees("version", r"^\d")
            check(browser.script("return document.getElementById('auth').hidden"), "the page still asks for a token")
            items(browser, "Authorization: Bearer …\n")
            kept = browser.script("return [localStorage.length, sessionStorage.length, document.cookie,"
                                  "document.documentElement.outerHTML.includes('secret-a')]")
            check(kept == [0, 0, "", False], f"the token is kept: {kept}")
            browser.open(kioskd.url)
            browser.sees("note", "^A token is needed")
            print("ok: it asks for a token and forgets it")

        # Nobody listens at port 1.
        with Kioskd(binary, REDIS_ADDR="127.0.0.1:1", DRAIN_DELAY="60s") as kioskd:
            browser.open(kioskd.url)
            browser.sees("state", "^not ready: store failed: ")
            browser.sees("error", r"^store failed: .*\(.*\d\d:\d\d")
            browser.sees("failures", r"^\d+ unreachable$")
            browser.fill("id", "7")
            request, answer = send(browser, "GET", "^GET: 50[234] ")
            browser.widths_and_themes(pictures, "broken")
            kioskd.process.send_signal(signal.SIGTERM)
            browser.sees("draining", "^yes$")
            browser.sees("state", "lifecycle failed: starting or draining")
            kioskd.process.send_signal(signal.SIGTERM)
            print("ok: it shows a store that is away, and that the process drains")

        with Kioskd(binary, FRONT="tiny_http", METRICS_LISTEN="127.0.0.1:0") as kioskd:
            browser.open(kioskd.url)
            browser.sees("connections", "^not counted$")
            browser.sees("version", r"^\d")
            items(browser)
            print("ok: on tiny_http")

        with Kioskd(binary) as kioskd, KeepsMetrics(kioskd) as proxy:
            browser.open(proxy.url)
            browser.sees("note", "^/metrics says 404 here: it may have its own address")
            browser.sees("state", "^ready$")
            browser.sees("version", r"^\d")
            print("ok: it says that metrics are elsewhere")

        with Kioskd(binary, STATUS_PAGE="off") as kioskd:
            browser.open(kioskd.url)
            shown = browser.script("return document.body.innerText")
            check('"paths":["/items"' in shown, shown)
            print("ok: STATUS_PAGE=off")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(sys.argv[1], pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else "target/page"))
