"""Headless Chromium, driven over its DevTools protocol."""

import base64
import io
import json
import subprocess
import time
import urllib.request

import numpy as np
from PIL import Image

PATIENCE = 120.0
"""Seconds, on a machine that has much else to do."""
FLAGS = ["--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def end(process):
    """Ask a process to end, and make it."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Browser:
    """One page of a Chromium with a profile in `folder`; `close` it."""

    def __init__(self, program, folder, size=(1000, 700)):
        from websockets.sync.client import connect

        flags = [*FLAGS, f"--window-size={size[0]},{size[1]}", f"--user-data-dir={folder}", "--remote-debugging-port=0"]
        self.process = subprocess.Popen(
            [program, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            told = folder / "DevToolsActivePort"
            wait_for(lambda: told.exists() and len(told.read_text().split()) == 2)
            address = f"http://127.0.0.1:{told.read_text().split()[0]}/json"
            with urllib.request.urlopen(address) as answer:
                pages = json.load(answer)
            page = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
            self.socket = connect(page, max_size=None)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.asked = 0

    def do(self, method, **params):
        self.asked += 1
        self.socket.send(json.dumps({"id": self.asked, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=PATIENCE))
            if message.get("id") == self.asked:
                assert "error" not in message, message
                return message["result"]

    def open(self, url):
        self.do("Page.enable")
        self.do("Page.navigate", url=url)

    def back(self):
        """To the page before, as the button does."""
        history = self.do("Page.getNavigationHistory")
        self.do("Page.navigateToHistoryEntry", entryId=history["entries"][history["currentIndex"] - 1]["id"])

    def ask(self, expression):
        answer = self.do("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self):
        """What the page looks like, (h, w, 3) floats of 0 to 255."""
        content = base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"])
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB")).astype(float)

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def drag(self, start, end):
        mouse = {"button": "left", "buttons": 1, "clickCount": 1}
        self.do("Input.dispatchMouseEvent", type="mousePressed", x=start[0], y=start[1], **mouse)
        for part in np.linspace(0, 1, 6)[1:]:
            x, y = (a + part * (b - a) for a, b in zip(start, end, strict=True))
            self.do("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, **mouse)
        self.do("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], **mouse)

    def close(self):
        self.socket.close()
        end(self.process)


KEYS = {"End": 35, "Home": 36, "ArrowRight": 39}


def wait_for(condition, seconds=PATIENCE):
    """The first true value of `condition()`; a deadline for what never comes, not for what is slow."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value
