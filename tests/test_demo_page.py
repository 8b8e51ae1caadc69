"""The page: over HTTP, and in a browser with what people would drop on it."""

import importlib.util
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from scripts.demo.server import find_choices, serve
from tests.commands import Command
from tests.predicting import call, labels_of
from tests.test_demo import choices, options  # noqa: F401  fixtures
from tests.workflows import ROOT

pytest.importorskip("gradio", reason="needs the extra 'demo'")

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from tests.tables import rows_of

DATA = ROOT.parent / "shared" / "data"
MICROGRAPH = DATA / "nasa_microscopy" / "benchmark_segmentation_data" / "Super1" / "test" / "spot2_0d_0.tif"
HIPPOCAMPUS = DATA / "hippocampus" / "imagesTr" / "hippocampus_003.nii.gz"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def page(choices: dict[str, Any], tmp_path: Path, monkeypatch) -> Iterator[Any]:  # noqa: F811
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")  # what the page sets goes with the test
    folder = tmp_path / "page"
    folder.mkdir()
    made = serve(choices, folder, free_port(), 10**7)
    yield made
    made.close(verbose=False)


def files_of(html: str, url: str) -> dict[str, bytes]:
    """The downloads of the page by their names."""
    links = re.findall(r'href="([^"]+)" download="([^"]+)"', html)
    return {name: urlopen(f"{url}{address}").read() for address, name in links}


def test_over_http(page, options, micrograph_dir, tmp_path) -> None:  # noqa: F811
    image = next((micrograph_dir / "imagesTs").glob("*.png"))
    call(image, tmp_path / "out", measure=True, **options["cs_unet"])
    ((name, label),) = labels_of(tmp_path / "out").items()
    client = Client(page.local_url, verbose=False)
    assert client.predict([handle_file(str(image))], "unet", api_name="/receive") == ("cs_unet", "")
    segmented = client.predict("cs_unet", api_name="/segment")
    links = next(part for part in map(str, segmented) if "download=" in part)
    assert files_of(links.replace("\\'", "'"), page.local_url)[name] == label
    numbers, *_, links = client.predict("", False, api_name="/measure")
    files = files_of(links, page.local_url)
    assert files["images.csv"] == (tmp_path / "out" / "measurements" / "images.csv").read_bytes()
    rows = rows_of(tmp_path / "out" / "measurements" / "images.csv")
    shown = {row[0]: row[1:] for row in numbers["data"]}
    assert [float(x) for x in shown["area fraction"]] == pytest.approx(
        [float(row["area_fraction"]) for row in rows], rel=1e-3
    )
    assert shown["number"] == [row["number"] for row in rows]
    drawn = client.predict("axial", 1, "classes", 1.0, api_name="/draw")
    assert Path(drawn["path"] if isinstance(drawn, dict) else drawn).stat().st_size > 1000

    with pytest.raises(AppError, match="has 2 spatial dimensions, but this config is for volumes"):
        client.predict("unet", api_name="/segment")
    other = Client(page.local_url, verbose=False)
    with pytest.raises(AppError, match="There is no upload"):
        other.predict("unet", api_name="/segment")
    large = tmp_path / "large.png"
    large.write_bytes(bytes(10**7 + 1))
    with pytest.raises(Exception, match=r"413|size"):
        other.predict([handle_file(str(large))], "unet", api_name="/receive")


def test_command_until_it_is_stopped(tmp_path: Path) -> None:
    port = free_port()
    command = Command(["-m", "scripts.demo", "--port", str(port), "--device", "cpu"], {"TMPDIR": str(tmp_path)})
    deadline = time.monotonic() + 90
    while "Open " not in command.out and command.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert f"Open http://127.0.0.1:{port}/" in command.out, command.err[-2000:]
    assert "superalloys" in urlopen(f"http://127.0.0.1:{port}/config").read().decode()
    assert [path for path in tmp_path.iterdir() if path.name.startswith("demo-")]
    second = Command(["-m", "scripts.demo", "--port", str(port)])
    assert second.wait() == 1 and f"127.0.0.1:{port} cannot be listened on" in second.err
    os.kill(command.pid, signal.SIGTERM)
    assert command.wait(60) == 143
    assert "what was uploaded and made of it is removed" in command.err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("demo-")]


@pytest.mark.slow
@pytest.mark.skipif(
    BROWSER is None or importlib.util.find_spec("playwright") is None, reason="needs Chromium and playwright"
)
@pytest.mark.skipif(not MICROGRAPH.is_file() or not HIPPOCAMPUS.is_file(), reason="needs the images of shared/data")
def test_in_a_browser(tmp_path: Path, monkeypatch) -> None:
    from playwright.sync_api import expect, sync_playwright

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")
    (tmp_path / "page").mkdir()
    made = serve(find_choices(None, None, None, None, None, {"device": "cpu"}), tmp_path / "page", free_port(), 10**8)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
            tab = browser.new_page()
            asked: list[str] = []
            tab.on("request", lambda request: asked.append(request.url))
            tab.goto(made.local_url)
            for image, trained in ((MICROGRAPH, "superalloys"), (HIPPOCAMPUS, "hippocampus")):
                out = tmp_path / trained
                call(image, out, trained=trained, device="cpu", measure=True)
                if trained == "hippocampus":
                    tab.get_by_label("Clear").click()
                tab.set_input_files("#upload input[type=file]", str(image))
                expect(tab.locator("#model input")).to_have_value(trained, timeout=30_000)
                tab.click("#segment")
                expect(tab.locator("#files a", has_text="images.csv")).to_be_visible(timeout=120_000)
                expect(tab.locator("#caption")).to_contain_text(image.name)
                (label,) = labels_of(out)
                for name in (label, "measurements/images.csv"):
                    with tab.expect_download() as download:
                        tab.locator("#files a", has_text=Path(name).name).click()
                    assert Path(download.value.path()).read_bytes() == (out / name).read_bytes()
                rows = rows_of(out / "measurements" / "images.csv")
                shown = [text.strip() for text in tab.inner_text("#numbers").splitlines() if text.strip()]
                column = "area_fraction" if trained == "superalloys" else "volume"
                title = {"area_fraction": "area fraction", "volume": "volume, ml"}[column]
                values = shown[shown.index(title) + 1 :][: len(rows)]
                assert [float(x) for x in values] == pytest.approx([float(row[column]) for row in rows], rel=1e-3)
                for row in rows:
                    expect(tab.locator("#legend")).to_contain_text(row["class"])
            picture = tab.locator("img").first
            before = picture.get_attribute("src")
            tab.locator("#slice input[type=number]").fill("5")
            tab.locator("#slice input[type=number]").press("Enter")
            expect(picture).not_to_have_attribute("src", before, timeout=30_000)
            assert len(list((tmp_path / "page" / "sessions").iterdir())) == 1
            browser.close()
        deadline = time.monotonic() + 30
        while list((tmp_path / "page" / "sessions").iterdir()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert list((tmp_path / "page" / "sessions").iterdir()) == []
        assert all(url.startswith((made.local_url, "data:", "blob:")) for url in asked), asked
    finally:
        made.close(verbose=False)
