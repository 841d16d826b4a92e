"""Chromium plays films with hidden frames, picture for picture as libvpx does."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import threading
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from streams import decode_with_libvpx, moving_images

from codec.kernel_cache import INTERPRETED
from excamera_dask.api import encode
from excamera_dask.formats.containers import read_packets
from excamera_dask.formats.ivf import is_key_frame
from excamera_dask.formats.y4m import Y4mWriter

pytestmark = pytest.mark.skipif(INTERPRETED, reason="too slow without compiled kernels")

WIDTH, HEIGHT, FRAMES = 176, 144, 40
OPTIONS = {"preset": "balanced", "chunk_frames": 8, "key_distance": 20, "cq_level": 30}
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip
PAGE = """<!doctype html><title>film</title><script>
const packets = PACKETS;

async function planes(frame) {  // I420 without padding, as hexadecimal digits of its SHA-1
    if (frame.format != "I420") throw "a frame is " + frame.format;
    const data = new Uint8Array(frame.allocationSize());
    await frame.copyTo(data);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-1", data));
    return Array.from(digest, byte => byte.toString(16).padStart(2, "0")).join("");
}

async function decoded() {
    const frames = [];
    let failed = null;
    const decoder = new VideoDecoder({output: frame => frames.push(frame), error: error => { failed = error; }});
    decoder.configure({codec: "vp8", hardwareAcceleration: "prefer-software"});
    packets.forEach(([isKey, data], at) => decoder.decode(new EncodedVideoChunk({
        type: isKey ? "key" : "delta", timestamp: at, data: Uint8Array.from(atob(data), c => c.charCodeAt(0))})));
    await decoder.flush();
    if (failed) throw failed;
    const digests = [];
    for (const frame of frames) { digests.push(await planes(frame)); frame.close(); }
    return digests;
}

function played() {  // the film as a player has it: frames that were shown, and how long it lasts
    return new Promise((resolve, reject) => {
        const video = document.createElement("video");
        video.muted = true;
        video.onerror = () => reject(video.error.message);
        video.onended = () => resolve({
            frames: video.getVideoPlaybackQuality().totalVideoFrames,
            corrupted: video.getVideoPlaybackQuality().corruptedVideoFrames, seconds: video.duration});
        video.src = "film.webm";
        document.documentElement.append(video);
        video.play().catch(reject);
    });
}

Promise.all([decoded(), played()])
    .then(([digests, film]) => ({digests, film}), error => ({error: String(error)}))
    .then(found => fetch("found", {method: "POST", body: JSON.stringify(found)}));
</script>"""


class Site(ThreadingHTTPServer):
    """Serves a page with a film, and takes what the page has found."""

    daemon_threads = True

    def __init__(self, page: str, film: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.files = {"/": ("text/html", page.encode()), "/film.webm": ("video/webm", film)}
        self.found: dict[str, object] = {}
        self.is_found = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *raised: object) -> None:
        self.shutdown()
        self.server_close()


class _Request(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        kind, data = self.server.files.get(self.path, ("text/plain", b""))
        self.send_response(200 if data else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        self.server.found = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.server.is_found.set()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs chromium (Debian: chromium)")
    return found


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    with Y4mWriter(folder / "film.y4m", WIDTH, HEIGHT, Fraction(25)) as writer:
        for image in moving_images(WIDTH, HEIGHT, FRAMES):
            writer.write(image)
    encode(folder / "film.y4m", folder / "film.webm", executor="sync", **OPTIONS)
    return folder / "film.webm"


def open_in(chromium: str, site: Site, profile: Path) -> None:
    """Show a site's page until it has found something."""
    address = f"http://127.0.0.1:{site.server_port}/"
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", address]
    with (
        (profile.parent / "chromium.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            assert site.is_found.wait(90), Path(log.name).read_text(errors="replace")[-2000:]
        finally:
            process.terminate()


def test_hidden_frames_play_picture_for_picture(film: Path, chromium: str, tmp_path: Path) -> None:
    packets = list(read_packets(film))
    coded = [
        [is_key_frame(packet.data), base64.b64encode(packet.data).decode()] for packet in packets
    ]
    assert len(coded) > FRAMES, "none is hidden"
    with Site(PAGE.replace("PACKETS", json.dumps(coded)), film.read_bytes()) as site:
        open_in(chromium, site, tmp_path / "profile")
    assert "error" not in site.found, site.found
    expected = decode_with_libvpx([packet.data for packet in packets])
    assert site.found["digests"] == [hashlib.sha1(picture).hexdigest() for picture in expected]
    assert site.found["film"] == {"corrupted": 0, "frames": FRAMES, "seconds": FRAMES / 25}
