"""A headless Chromium for the tests of pages, and the contrast of colours."""

import base64
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any, Callable, List

try:
    import pypdf
    from selenium import webdriver
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.wait import WebDriverWait
except ImportError:
    webdriver = None

IS_INSTALLED = bool(webdriver and shutil.which("chromium") and shutil.which("chromedriver"))
OVERFLOWS = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
DESKTOP, PHONE = (1280, 800), (360, 740)


class Browser:
    """Control a headless Chromium."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for argument in ("--headless=new", "--disable-dev-shm-usage", *["--no-sandbox"] * (os.geteuid() == 0)):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))

    def open(
        self, text: str, width: int = 1280, height: int = 800, scheme: str = "light", ending: str = "html"
    ) -> None:
        """Write the text to a file and open it, like `visit`."""
        file = self.folder / f"run.{ending}"
        file.write_text(text, encoding="utf-8")
        self.visit(file, width, height, scheme)

    def visit(self, file: Path, width: int = 1280, height: int = 800, scheme: str = "light") -> None:
        """Open a file. Widths below 500 emulate a phone."""
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.set_scheme(scheme)
        self.driver.get(file.as_uri())

    def set_scheme(self, scheme: str) -> None:
        """Make the system `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def __call__(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait_for(self, script: str) -> Any:
        """Wait until a script returns something that is true, and return it."""
        return self.wait_until(lambda: self(script))

    def wait_until(self, check: Callable[[], Any]) -> Any:
        """Wait until a function returns something that is true, and return it."""
        return WebDriverWait(self.driver, 60, 0.05).until(lambda _: check())

    def find(self, selector: str) -> List[Any]:
        """Return the elements that a CSS selector selects."""
        return list(self.driver.find_elements("css selector", selector))

    def hover(self, element: Any) -> None:
        """Move the mouse to an element."""
        self("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver).move_to_element(element).perform()

    def click(self, element: Any) -> None:
        """Move the mouse to an element, and click."""
        self.hover(element)
        ActionChains(self.driver).click().perform()

    def press_escape(self) -> None:
        self.driver.switch_to.active_element.send_keys("\ue00c")

    def requests(self) -> List[str]:
        """Return the addresses that the page has requested, without those that hold the data themselves."""
        entries = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [each["params"]["request"]["url"] for each in entries if each["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    def pdf(self, is_landscape: bool) -> Any:
        """Print the page to a PDF on A4 paper."""
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        options = {"landscape": is_landscape, "paperWidth": 8.27, "paperHeight": 11.69}
        printed = self.driver.execute_cdp_cmd("Page.printToPDF", options)
        return pypdf.PdfReader(io.BytesIO(base64.b64decode(printed["data"])))


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio as WCAG defines it: https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio."""
    darker, lighter = sorted([_luminance(one), _luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear))
