"""Headless Firefox, driven over Marionette: its own protocol of JSON with a length before it."""

import base64
import io
import itertools
import json
import socket
import subprocess

import numpy as np
from browser import PATIENCE, end, wait_for
from PIL import Image

PREFERENCES = {
    **{"marionette.port": 0, "browser.shell.checkDefaultBrowser": False, "app.update.enabled": False},
    **{"webgl.force-enabled": True, "webgl.forbid-software": False},
}
ERRORS = """return Services.console.getMessageArray()
  .filter((m) => m instanceof Ci.nsIScriptError && !(m.flags & Ci.nsIScriptError.warningFlag))
  .filter((m) => /^(file|blob):/.test(m.sourceName))
  .map((m) => m.errorMessage)"""


class Firefox:
    """One page of a Firefox with a profile in `folder`; `close` it."""

    def __init__(self, program, folder, size=(500, 400)):
        folder.mkdir()
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items()]
        (folder / "user.js").write_text("\n".join(lines))
        flags = ["--headless", "--no-remote", "--marionette", "--remote-allow-system-access", "--profile", str(folder)]
        self.process = subprocess.Popen(
            [program, *flags, f"--width={size[0]}", f"--height={size[1]}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            told = folder / "MarionetteActivePort"
            wait_for(lambda: told.exists() and told.read_text().strip())
            self.socket = socket.create_connection(("127.0.0.1", int(told.read_text())), timeout=PATIENCE)
            self.stream = self.socket.makefile("rb")
            self.numbers = itertools.count(1)
            self._message()  # who it is
            self.do("WebDriver:NewSession", capabilities={"alwaysMatch": {"acceptInsecureCerts": True}})
        except BaseException:
            self._end()
            raise

    def _message(self):
        length = b""
        while (byte := self.stream.read(1)) != b":":
            assert byte, "Firefox has gone"
            length += byte
        return json.loads(self.stream.read(int(length)))

    def do(self, command, **parameters):
        number = next(self.numbers)
        data = json.dumps([0, number, command, parameters]).encode()
        self.socket.sendall(b"%d:%s" % (len(data), data))
        _, answered, error, result = self._message()
        assert answered == number and error is None, error
        return result

    def open(self, url):
        self.do("WebDriver:Navigate", url=url)

    def ask(self, expression):
        return self.do("WebDriver:ExecuteScript", script=f"return ({expression})", args=[])["value"]

    def picture(self):
        """What the page looks like, (h, w, 3) floats of 0 to 255."""
        content = base64.b64decode(self.do("WebDriver:TakeScreenshot", full=False)["value"])
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB")).astype(float)

    def errors(self):
        """Errors of the page's scripts and its policy so far."""
        self.do("Marionette:SetContext", value="chrome")
        try:
            return self.do("WebDriver:ExecuteScript", script=ERRORS, args=[])["value"]
        finally:
            self.do("Marionette:SetContext", value="content")

    def close(self):
        self.socket.close()
        self._end()

    def _end(self):
        end(self.process)
