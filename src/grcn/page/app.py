"""`grcn demo RUN [OTHER]`: a page in the browser that shows what one detector, or two side by side, find in a photo.

The server decodes the photo, runs the detectors once, and sends all detections, with the photo and the energy of the
detector's maps as pictures. The browser does the rest (page.js): the score slider, the details of a box, the choice of
a map, the JSON. Nothing is computed again, and the server keeps nothing about a photo.
"""

from __future__ import annotations

import base64
import html
import io
import os
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from grcn.data.image import read_image
from grcn.data.text import listed
from grcn.errors import ConfigError, ImageError, Interrupted
from grcn.palette import PALETTE
from grcn.types import Detections

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from grcn.model.separation import Maps
    from grcn.predict.detector import Detector

HOST = "127.0.0.1"
MAX_BYTES = 2**25  # of an upload; the decoder limits the pixels
MAX_SECONDS = 60.0  # for a request, once its turn has come
MAX_WAITING = 16  # requests in the queue
SHOWN_SIDE = 1280  # pixels of the longer side of the picture on the page; boxes stay in pixels of the photo
KEPT_SECONDS = 600  # for an uploaded file


def open_page(detectors: Mapping[str, Detector], port: int | None = None) -> None:
    """Serves the page on this machine only, until the process is interrupted. Uploaded files are deleted with it.

    Args:
        detectors: one or two detectors, by their name on the page.
        port: the port. Default: the first free port from 7860 on.

    Raises:
        ConfigError: if gradio is not installed, or the port is in use.
        Interrupted: on SIGTERM.
        KeyboardInterrupt: on Ctrl-C.
    """
    with tempfile.TemporaryDirectory(prefix="grcn-page-") as folder, ThreadPoolExecutor(1) as worker:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read when gradio is imported, and when the page is built
        try:
            import gradio
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise ConfigError("the page needs gradio: pip install 'grcn[demo]'") from None
        signal.signal(signal.SIGTERM, _stop)
        blocks = _build(detectors, Path(folder), worker)
        try:
            _, address, _ = blocks.launch(
                server_name=HOST,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=MAX_BYTES,
                theme=gradio.themes.Default(
                    primary_hue="blue",
                    font=["system-ui", "sans-serif"],  # the default fonts are fetched from Google
                    font_mono=["monospace"],
                ),
                css=_file("page.css"),
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
            )
        except OSError:
            raise ConfigError(
                f"port {port or 'from 7860 on'}: in use, or not allowed; choose another with --port"
            ) from None
        try:
            print(f"open {address} in a browser on this machine; Ctrl-C ends it", flush=True)
            threading.Event().wait()
        finally:
            blocks.close(verbose=False)


def _stop(number: int, _: FrameType | None) -> None:
    raise Interrupted("the page is closed", number)


def _build(detectors: Mapping[str, Detector], folder: Path, worker: ThreadPoolExecutor) -> Any:
    """The page as gradio.Blocks.

    Args:
        folder: the folder of uploaded files.
        worker: an executor with one thread, so that one prediction runs at a time.
    """
    import gradio as gr

    def on_photo(upload: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if upload is None else respond(upload, folder, detectors, worker)

    with gr.Blocks(title="grcn", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as blocks:
        gr.HTML(_heading(detectors))
        photo = gr.Image(
            label="photo",
            sources=["upload", "webcam", "clipboard"],
            webcam_options=gr.WebcamOptions(mirror=False),
            buttons=[],
            height=220,
            elem_id="photo",
        )
        view = gr.HTML(html_template=_file("page.html"), js_on_load=_file("page.js"), elem_id="view", min_height=120)
        # Without gradio's preprocessing, which would decode the file in its own way.
        photo.change(on_photo, photo, view, preprocess=False, concurrency_limit=1, api_visibility="private")
    return blocks.queue(max_size=MAX_WAITING, api_open=False)


def _heading(detectors: Mapping[str, Detector]) -> str:
    names = list(dict.fromkeys(name for detector in detectors.values() for name in detector.class_names))
    title = " and ".join(map(html.escape, detectors))
    return f"<h1>{title}</h1><p>Drop a photo or take one. Classes: {html.escape(listed(names, 12))}.</p>"


def _file(name: str) -> str:
    return resources.files("grcn.page").joinpath(name).read_text(encoding="utf-8")


def respond(
    upload: dict[str, Any], folder: Path, detectors: Mapping[str, Detector], worker: ThreadPoolExecutor
) -> dict[str, Any]:
    """What the page shows for an upload: the result of `look`, or `error`, a line that says what is wrong.

    Args:
        upload: the upload as described by gradio: `path` and `orig_name`.
        folder: the folder of uploads; a file elsewhere is not opened.
    """
    path = Path(upload["path"]).resolve()
    name = str(upload.get("orig_name") or path.name)
    if not path.is_relative_to(folder.resolve()):
        return {"error": f"{name}: is not an upload of this page"}
    looking = worker.submit(look, path, name, detectors)
    try:
        return looking.result(MAX_SECONDS)
    except TimeoutError:
        looking.cancel()
        return {"error": f"{name}: took more than {MAX_SECONDS:g} seconds; try again, or a smaller photo"}
    except ImageError as error:
        return {"error": str(error)}


def look(path: Path, name: str, detectors: Mapping[str, Detector]) -> dict[str, Any]:
    """What the page shows for one photo, as plain values for JSON.

    Args:
        path: the uploaded file; name: its original name.

    Returns:
        `name`; `width` and `height` in pixels; `photo`, a data URL; and `detectors`. Each detector has `name`,
        `preset`, `seconds`, `least` (its lowest score), `classes` (name and colour), `best` (for each class the score
        with the best F1, if its file has thresholds), `detections` (all that it keeps, as COCO results; the image id is
        the name without suffix) and `maps` (`tasks`, `stride` and `energy`, a data URL that covers the photo).

    Raises:
        ImageError: on a file that cannot be decoded or is too large.
    """
    image = read_image(path, name=name)
    height, width = image.shape[:2]
    scale = min(1.0, SHOWN_SIDE / max(height, width))
    shown = (max(1, round(width * scale)), max(1, round(height * scale)))
    views = []
    for label, detector in detectors.items():
        start = time.perf_counter()
        found, maps = predict_with_maps(detector, image)
        views.append(
            {
                "name": label,
                "preset": detector.preset,
                "seconds": time.perf_counter() - start,
                "least": detector.config.roi.score_threshold,
                "classes": [[c, PALETTE[i % len(PALETTE)]] for i, c in enumerate(detector.class_names)],
                "best": detector.thresholds.of("best").tolist() if detector.thresholds else None,
                "detections": found.to_coco(Path(name).stem),
                "maps": [] if maps is None else _energies(detector, maps, (height, width), shown),
            }
        )
    photo = _data_url(Image.fromarray(image).resize(shown, Image.Resampling.LANCZOS, reducing_gap=2.0))
    return {"name": name, "width": width, "height": height, "photo": photo, "detectors": views}


def predict_with_maps(detector: Detector, image: NDArray[np.uint8]) -> tuple[Detections, Maps | None]:
    """The detections in an image, and the maps that they come from; None for an exported graph, which hides its maps.

    Only one call at a time is allowed for a detector.
    """
    try:
        separation = detector.model.separation
    except ConfigError:  # an exported graph has no torch module
        return detector.predict(image), None
    kept: list[Maps] = []
    hook = separation.register_forward_hook(lambda module, images, maps: kept.append(maps))
    try:
        return detector.predict(image), kept[0]
    finally:
        hook.remove()


def energy(feature_map: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean absolute activation of each cell: [C, H, W] to [H, W]."""
    mean: NDArray[np.float32] = np.abs(feature_map).mean(axis=0)
    return mean


def _energies(detector: Detector, maps: Maps, size: tuple[int, int], shown: tuple[int, int]) -> list[dict[str, Any]]:
    """Pictures of the energy of each task's map, or one picture if both tasks share a map.

    For a pyramid, the energy is the mean over its maps.

    Args:
        size: height and width of the photo.
        shown: width and height of the pictures.
    """
    from grcn.data.transforms import output_size

    seen = detector.config.input
    height, width = output_size(*size, seen.short_side, seen.long_side)
    _, cls_strides, loc_strides = detector.model.separation.strides
    parts = [(["cls"], maps.cls, cls_strides), (["loc"], maps.loc, loc_strides)]
    if maps.cls[0] is maps.loc[0]:
        parts = [(["cls", "loc"], maps.cls, cls_strides)]
    pictures = []
    for tasks, pyramid, strides in parts:
        levels = []
        for map_, stride in zip(pyramid, strides, strict=True):
            # The map covers the padded input; the photo is its top left part.
            box = (0.0, 0.0, width / stride, height / stride)
            cells = Image.fromarray(energy(map_[0].float().cpu().numpy()))
            levels.append(np.asarray(cells.resize(shown, Image.Resampling.BICUBIC, box=box)))
        seen_at = str(strides[0]) if len(strides) == 1 else f"{strides[0]} to {strides[-1]}"
        smooth = np.mean(levels, axis=0)
        pictures.append({"tasks": tasks, "stride": seen_at, "energy": _data_url(_coloured(smooth))})
    return pictures


def _coloured(values: NDArray[np.float32]) -> Image.Image:
    """A picture of values, from dark for the lowest to bright for the highest."""
    import matplotlib

    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    colours = matplotlib.colormaps["inferno"](scaled, bytes=True)  # [H, W, 4]
    return Image.fromarray(np.ascontiguousarray(colours[:, :, :3]))


def _data_url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
