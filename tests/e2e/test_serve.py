"""`grcn serve`: real processes, asked over HTTP; answers are `Detector.predict`'s, whatever else is sent or happens."""

import asyncio
import io
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
import torch
from jsonschema import Draft202012Validator

from calibrate import enliven
from grcn import Detections, Detector
from grcn.cli.main import main
from grcn.config import DetectorConfig, InputConfig, RoIConfig, RPNConfig, ServeLimits
from grcn.model.detector import build_detector
from grcn.predict.checkpoint import save_detector
from grcn.predict.stream import Prepared
from grcn.predict.torch_backend import TorchBackend
from grcn.serve import _is_loopback, create_app
from grcn.thresholds import KEY, Thresholds, calibrate

NAMES = ("cat", "dog", "eel")
SMALL = DetectorConfig(
    backbone="resnet18",
    separation="conv4",
    input=InputConfig(64, 96),
    rpn=RPNConfig(anchor_sizes=(16.0, 32.0), post_nms_test=20, channels=16),
    roi=RoIConfig(fc_channels=16, reduce_channels=8, score_threshold=0.0),
)
MAX_BYTES = 1_000_000
THRESHOLDS = Thresholds(NAMES, (0.4, 0.25, None), (0.65, None, 0.25), 0.15, 0.9, 2.0, 0.5, "zoo", "val")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose detector finds something in any picture."""
    torch.manual_seed(0)
    model = build_detector(SMALL, len(NAMES), weights=None)
    image = torch.rand(3, 64, 96)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    enliven(model, [image, image.flip(2)], [nothing] * 2)
    folder = tmp_path_factory.mktemp("serve") / "run"
    extra = {KEY: THRESHOLDS.to_json()}
    save_detector(folder / "last.safetensors", model, class_names=NAMES, preset="grcn_r18", extra=extra)
    return folder


@pytest.fixture(scope="module")
def detector(run: Path) -> Detector:
    return Detector.load(run)


@dataclass(frozen=True)
class Service:
    """A started process and a client of it."""

    process: subprocess.Popen[str]
    url: str
    client: httpx.Client

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes that it holds; VmHWM: that it ever held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024


@contextmanager
def started(run: Path, *words: str) -> Iterator[Service]:
    """`grcn serve` on a free port, ready; killed at the end unless it has ended."""
    command = [sys.executable, "-m", "grcn", "serve", str(run), "--port", "0", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = [process.stderr.readline() for _ in range(2)]
            assert lines[0] == f"grcn: {run}: grcn_r18 on cpu, optimize fold\n", lines
            assert ": ready; POST photos to /predict" in lines[1], lines
            url = lines[1].split()[1].removesuffix(":")
            with httpx.Client(base_url=url, timeout=60) as client:
                yield Service(process, url, client)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def service(run: Path) -> Iterator[Service]:
    with started(run, "--max_bytes", str(MAX_BYTES), "--max_pixels", "1000000", "--max_requests", "50") as service:
        yield service


@pytest.fixture(scope="module")
def schema(service: Service) -> dict[str, Any]:
    """The OpenAPI document, with its references resolvable."""
    return service.client.get("/openapi.json").json()


def assert_documented(schema: dict[str, Any], answer: httpx.Response) -> None:
    """The answer has a status that the document names, and the form that it gives for it."""
    operation = schema["paths"][answer.url.path][answer.request.method.lower()]
    content = operation["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
    Draft202012Validator({**content, "components": schema["components"]}).validate(answer.json())


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def assert_answers(answer: dict[str, Any], found: Detections, width: int, height: int) -> None:
    """A batch of photos rounds a little differently than one of them alone."""
    assert (answer["width"], answer["height"]) == (width, height)
    assert answer["names"] == found.names
    assert answer["class_ids"] == found.class_ids.tolist()
    np.testing.assert_allclose(answer["scores"], found.scores, atol=1e-4)
    np.testing.assert_allclose(answer["boxes"], found.boxes.reshape(-1, 4), atol=0.02)


def test_the_service_says_what_answers(service: Service) -> None:
    health = service.client.get("/healthz")
    assert health.status_code == 200
    about = {"detector": "grcn_r18", "classes": list(NAMES), "thresholds": THRESHOLDS.to_json()}
    assert health.json() == {**about, "ready": True, "requests": 0}


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P"), ("WEBP", "RGBA")])
def test_answers_are_those_of_predict(
    service: Service, detector: Detector, tmp_path: Path, kind: str, mode: str
) -> None:
    """Of a form and of a whole body; with the score in the form, in the query and not at all."""
    file = tmp_path / "photo"
    file.write_bytes(encoded(picture(120, 90), kind, mode))
    found = detector.predict(file)
    assert len(found) > 5
    score = float(np.median(found.scores))
    form = {"files": {"image": file.read_bytes()}}
    body = {"content": file.read_bytes(), "headers": {"Content-Type": f"image/{kind.lower()}"}}
    for answer in (service.client.post("/predict", **form), service.client.post("/predict", **body)):
        assert answer.status_code == 200, answer.text
        assert_answers(answer.json(), found, 120, 90)
    for answer in (
        service.client.post("/predict", **form, data={"score": str(score)}),
        service.client.post("/predict", **form, params={"score": score}),
        service.client.post(
            "/predict", **form, params={"score": 1}, data={"score": str(score)}
        ),  # the form's goes first
        service.client.post("/predict", **body, params={"score": score}),
    ):
        assert_answers(answer.json(), found.above(score), 120, 90)
    nothing = service.client.post("/predict", **form, params={"score": 1}).json()
    assert nothing == {"width": 120, "height": 90, "boxes": [], "scores": [], "class_ids": [], "names": []}


def test_boxes_are_those_of_the_upright_photo(service: Service, detector: Detector) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    lying = encoded(picture(120, 90), "JPEG", exif=exif)
    answer = service.client.post("/predict", files={"image": lying}).json()
    upright = np.rot90(np.asarray(PIL.Image.open(io.BytesIO(lying))), -1)
    assert_answers(answer, detector.predict(upright), 90, 120)


def test_concurrent_requests_get_their_own_answers(service: Service, detector: Detector) -> None:
    """40 at once, of five sizes in turn, and bad ones among them."""
    sizes = ((120, 90), (90, 120), (64, 64), (300, 40), (33, 50))
    pictures = [picture(*sizes[i % len(sizes)], seed=i) for i in range(40)]

    async def ask_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(verify=False, base_url=service.url, timeout=60) as client:
            contents = [encoded(pixels) for pixels in pictures] + [b"no photo"] * 4
            return await asyncio.gather(*(client.post("/predict", files={"image": one}) for one in contents))

    answers = asyncio.run(ask_all())
    assert [answer.status_code for answer in answers] == [200] * 40 + [422] * 4
    for pixels, answer in zip(pictures, answers, strict=False):
        assert_answers(answer.json(), detector.predict(pixels), pixels.shape[1], pixels.shape[0])


@pytest.mark.parametrize("choice", ["best", "precise"])
def test_the_scores_of_the_file(service: Service, detector: Detector, schema: dict[str, Any], choice: str) -> None:
    every = detector.predict(PNG)
    kept = every.above(THRESHOLDS.of(choice))
    assert 0 < len(kept) < len(every)
    form = {"files": {"image": PNG}}
    for words in ({"data": {"score": choice}}, {"params": {"score": choice}}):
        answer = service.client.post("/predict", **form, **words)
        assert_documented(schema, answer)
        assert_answers(answer.json(), kept, 120, 90)


def test_calibrated_scores(run: Path, detector: Detector) -> None:
    """A service that is asked for them gives them with each answer, and takes the client's score for one of them."""
    expected = calibrate(detector.predict(PNG), THRESHOLDS.temperature)

    async def ask() -> None:
        async with inside(Detector.load(run, calibrated=True)) as client:
            await compare(client)

    async def compare(client: httpx.AsyncClient) -> None:
        form = {"files": {"image": PNG}}
        assert_answers((await client.post("/predict", **form)).json(), expected, 120, 90)
        answer = await client.post("/predict", **form, params={"score": 0.45})
        assert_answers(answer.json(), expected.above(0.45), 120, 90)
        best = expected.above(THRESHOLDS.calibrated().of("best"))
        assert_answers((await client.post("/predict", **form, params={"score": "best"})).json(), best, 120, 90)
        told = (await client.get("/healthz")).json()["thresholds"]
        assert told["best"]["cat"] == pytest.approx(THRESHOLDS.calibrated().best[0])

    asyncio.run(ask())


def test_without_thresholds_their_scores_are_refused_in_one_line(detector: Detector) -> None:
    async def ask() -> None:
        async with inside(Detector(detector.network, NAMES)) as client:
            answer = await client.post("/predict", files={"image": PNG}, params={"score": "best"})
            assert answer.status_code == 422
            assert answer.json()["detail"].startswith("the detector: no thresholds or temperature in its header; ")
            assert (await client.get("/healthz")).json()["thresholds"] is None

    asyncio.run(ask())


PNG = encoded(picture(120, 90))
JPEG = encoded(picture(120, 90), "JPEG")
BOMB = PNG[:16] + (60_000).to_bytes(4, "big") * 2 + PNG[24:]  # a header of 3.6 billion pixels
LARGE = encoded(np.zeros((1001, 1000, 3), np.uint8))
MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + PNG

BAD: dict[str, tuple[int, str, dict[str, Any]]] = {
    "nothing": (415, "content type '': send a form", {}),
    "json": (415, "content type 'application/json'", {"json": {"image": "x"}}),
    "urlencoded": (415, "content type 'application/x-www-form-urlencoded'", {"data": {"image": "x"}}),
    "bytes": (
        415,
        "'application/octet-stream'",
        {"content": PNG, "headers": {"Content-Type": "application/octet-stream"}},
    ),
    "empty body": (422, "image: empty file", {"content": b"", "headers": {"Content-Type": "image/png"}}),
    "empty file": (422, "image: empty file", {"files": {"image": b""}}),
    "no file": (422, "image: missing", {"files": {"score": (None, "0.5")}}),
    "a text": (422, "image: missing", {"files": {"image": (None, "a.png")}}),
    "wrong field": (422, "field 'photo': unknown", {"files": {"photo": PNG}}),
    "more fields": (422, "field 'color': unknown", {"files": {"image": PNG, "color": (None, "red")}}),
    "two files": (400, "Too many files", {"files": [("image", PNG), ("image", PNG)]}),
    "many fields": (400, "Too many fields", {"files": {"score": (None, "0"), "a": (None, "0"), "image": PNG}}),
    "long field": (400, "Part exceeded", {"files": {"image": PNG, "score": (None, "0" * 2000)}}),
    "no boundary": (400, "boundary", {"content": PART, "headers": {"Content-Type": "multipart/form-data"}}),
    "no form": (400, "", {"content": b"abc", "headers": MULTIPART}),
    "half a form": (422, "image: missing", {"content": PART, "headers": MULTIPART}),
    "no name": (400, "name", {"content": b"--b\r\nA: b\r\n\r\nx\r\n--b--\r\n", "headers": MULTIPART}),
    "text": (422, "image: damaged, or not an image", {"files": {"image": b"hello"}}),
    "svg": (422, "not an image", {"content": b"<svg/>", "headers": {"Content-Type": "image/svg+xml"}}),
    "pdf": (422, "not an image", {"files": {"image": ("../../etc/passwd", b"%PDF-1.4", "image/png")}}),
    "truncated png": (422, "image: ", {"files": {"image": PNG[: len(PNG) // 2]}}),
    "truncated jpeg": (422, "image: ", {"files": {"image": JPEG[: len(JPEG) // 2]}}),
    "flipped png": (422, "image: damaged", {"files": {"image": PNG[:99] + b"\0\1" + PNG[101:]}}),
    "bomb": (422, "image: ", {"files": {"image": BOMB}}),
    "too many pixels": (422, "more than 1000000 pixels", {"files": {"image": LARGE}}),
    **{
        f"score {score} in {where}": (422, "score: Input should be", {"files": {"image": PNG}, where: {"score": score}})
        for score in ("nan", "inf", "-0.1", "1.1", "high", "", "1e400")
        for where in ("params", "data")
    },
    "too long": (413, f"more than {MAX_BYTES} bytes", {"files": {"image": bytes(MAX_BYTES)}}),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_4xx_and_one_line(service: Service, run: Path, schema: dict[str, Any], name: str) -> None:
    code, message, request = BAD[name]
    answer = service.client.post("/predict", **request)
    assert answer.status_code == code, answer.text
    assert message in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]
    assert str(run.parent) not in answer.text
    assert "/src/" not in answer.text
    assert_documented(schema, answer)


@pytest.mark.parametrize(("method", "path", "code"), [("GET", "/predict", 405), ("POST", "/nothing", 404)])
def test_unknown_paths_and_methods(service: Service, method: str, path: str, code: int) -> None:
    answer = service.client.request(method, path, content=bytes(2 * MAX_BYTES))
    assert answer.status_code == code
    assert set(answer.json()) == {"detail"}


def test_what_is_no_http_is_refused(service: Service) -> None:
    for garbage in (b"\x16\x03\x01 hello\r\n\r\n", b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
            client.sendall(garbage)
            assert client.recv(1000).startswith(b"HTTP/1.1 400 ")
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:  # gone while sending
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 50\r\n\r\nabc")
    assert service.client.get("/healthz").json()["ready"]


def test_a_body_too_long_is_not_kept(service: Service) -> None:
    """64 MB of unknown length, then of a declared one; the answer does not wait for the end of it."""
    headers = {"Content-Type": "image/png", "Connection": "close"}  # the hard case: it may only be closed at the end
    service.client.post("/predict", content=PNG, headers=headers)
    before, sent = service.memory("VmHWM"), 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(64):
            yield bytes(2**20)
            sent += 1

    assert service.client.post("/predict", content=body(), headers=headers).status_code == 413
    assert sent == 64  # the client never saw a broken connection
    assert service.memory("VmHWM") - before < 16 * 2**20
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(
            b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 9999999\r\n\r\n"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


class Upload:
    """A request whose body is only sent to its end when told to."""

    def __init__(self, client: httpx.AsyncClient, content: bytes = PNG) -> None:
        self.begun, self.go, self.content = asyncio.Event(), asyncio.Event(), content
        self.answer = asyncio.create_task(
            client.post("/predict", content=self._body(), headers={"Content-Type": "image/png"})
        )

    async def _body(self) -> AsyncIterator[bytes]:
        yield self.content[:50]
        self.begun.set()
        await self.go.wait()
        yield self.content[50:]


def test_limits_and_a_graceful_stop(run: Path, detector: Detector) -> None:
    """Two uploads fill the service, idle connections the server; one upload never ends; SIGTERM ends it all."""
    limits = ("--max_requests", "2", "--max_connections", "4", "--timeout", "5")
    with started(run, *limits) as service:
        asyncio.run(_fill_and_stop(service, detector))
        assert service.process.wait(timeout=30) == 0
        assert service.process.stderr.read() == "grcn: stopped\n"


async def _fill_and_stop(service: Service, detector: Detector) -> None:
    found = detector.predict(picture(120, 90))
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(verify=False, base_url=service.url, timeout=60, limits=limits) as client:

        async def until(holds: Callable[[httpx.Response], bool]) -> None:
            async with asyncio.timeout(20):
                while not holds(await client.get("/healthz")):
                    await asyncio.sleep(0.02)

        async def fill() -> list[Upload]:
            uploads = [Upload(client) for _ in range(2)]
            await until(lambda health: health.json()["requests"] == 2)
            return uploads

        uploads = await fill()
        full = await client.post("/predict", files={"image": PNG})
        assert (full.status_code, full.headers["Retry-After"]) == (503, "1")
        assert "2 photos are in the service already" in full.json()["detail"]
        for upload in uploads:
            upload.go.set()
            assert_answers((await upload.answer).json(), found, 120, 90)

        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 50\r\n\r\nabc")
        async with asyncio.timeout(20):
            late = (await reader.read()).decode()  # to the end: the connection is closed
        assert late.startswith("HTTP/1.1 408 ")
        assert late.endswith('{"detail":"the request was not sent within 5 s"}')
        writer.close()

        idle = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(4)]
        await until(lambda health: health.status_code == 503)
        for one in idle:
            one.close()
        await until(lambda health: health.status_code == 200)

        uploads = await fill()
        service.process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.TransportError):  # at last: it listens no more
            await until(lambda health: False)
        for upload in uploads:
            upload.go.set()
        for upload in uploads:
            assert_answers((await upload.answer).json(), found, 120, 90)


def test_what_is_waiting_is_answered_before_the_end(run: Path) -> None:
    """Photos wait for the network, and some are in it, when Ctrl-C comes."""
    photos = [encoded(picture(1200, 900, seed)) for seed in range(2)]

    async def ask_and_stop(service: Service) -> list[httpx.Response]:
        async with httpx.AsyncClient(verify=False, base_url=service.url, timeout=60) as client:
            asked = [asyncio.create_task(client.post("/predict", files={"image": photos[i % 2]})) for i in range(16)]
            async with asyncio.timeout(20):
                while (await client.get("/healthz")).json()["requests"] < 10:
                    await asyncio.sleep(0.01)
            service.process.send_signal(signal.SIGINT)
            return await asyncio.gather(*asked, return_exceptions=True)

    with started(run, "--max_batch", "2") as service:
        answers = asyncio.run(ask_and_stop(service))
        assert service.process.wait(timeout=30) == 0
    answered = [answer for answer in answers if isinstance(answer, httpx.Response)]
    # What had not been accepted sees its connection refused or closed; all else is answered.
    assert len(answered) >= 10
    assert {answer.status_code for answer in answered} == {200}


def test_the_openapi_document_is_valid_and_names_every_error(service: Service, schema: dict[str, Any]) -> None:
    assert schema["openapi"].startswith("3.1")
    for part in schema["components"]["schemas"].values():
        Draft202012Validator.check_schema(part)
    responses = schema["paths"]["/predict"]["post"]["responses"]
    assert set(responses) == {"200", "400", "408", "413", "415", "422", "500", "503", "504"}
    problem = {"$ref": "#/components/schemas/Problem"}
    for code in set(responses) - {"200"}:
        assert responses[code]["content"]["application/json"]["schema"] == problem
    for content in schema["paths"]["/predict"]["post"]["requestBody"]["content"].values():
        Draft202012Validator.check_schema(content["schema"])
    (score,) = schema["paths"]["/predict"]["post"]["parameters"]
    assert (score["name"], score["in"], score["required"]) == ("score", "query", False)
    assert score["schema"]["anyOf"] == [
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "string", "enum": ["best", "precise"]},
    ]
    references = {word.strip('"') for word in json.dumps(schema).split() if word.startswith('"#/')}
    assert {reference.rstrip('"},]').rsplit("/", 1)[1] for reference in references} <= set(
        schema["components"]["schemas"]
    )
    assert_documented(schema, service.client.get("/healthz"))
    assert_documented(schema, service.client.post("/predict", files={"image": PNG}))


class Slow(TorchBackend):
    """A network that waits to be let through, notes what it is given, and breaks on photos 77 pixels wide."""

    def __init__(self, detector: Detector) -> None:
        super().__init__(detector.model)
        self.go, self.given = threading.Event(), list[list[tuple[int, int]]]()
        self.detector = Detector(self, detector.class_names, detector.preset)

    def detect(self, images: list[Prepared], *options: Any) -> Any:
        sizes = [image.size for image in images]
        if sizes != [(480, 640)]:  # not the one that warms up
            self.given.append(sizes)
            assert self.go.wait(timeout=20)
            if sizes[0][1] == 77:
                raise RuntimeError("it broke at /secret/place")
        return super().detect(images, *options)


@asynccontextmanager
async def inside(detector: Detector, **limits: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application without a server, in this process."""
    app = create_app(detector, ServeLimits(**limits))
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    lifespan = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, messages.get, said.put))
    messages.put_nowait({"type": "lifespan.startup"})
    assert (await said.get())["type"] == "lifespan.startup.complete"
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://inside") as client:
        yield client
    messages.put_nowait({"type": "lifespan.shutdown"})
    assert (await said.get())["type"] == "lifespan.shutdown.complete"
    await lifespan


def test_photos_of_one_size_that_wait_are_predicted_together(detector: Detector) -> None:
    slow = Slow(detector)
    sizes = [(50, 40), (60, 40), (50, 40), (50, 40), (60, 40), (50, 40), (50, 40)]

    async def ask() -> list[httpx.Response]:
        async with inside(slow.detector, max_batch=4) as client:
            asked = [
                asyncio.create_task(client.post("/predict", files={"image": encoded(picture(*size, seed=i))}))
                for i, size in enumerate(sizes)
            ]
            async with asyncio.timeout(20):
                while (await client.get("/healthz")).json()["requests"] < len(sizes) or not slow.given:
                    await asyncio.sleep(0.01)
            slow.go.set()
            return await asyncio.gather(*asked)

    answers = asyncio.run(ask())
    assert sorted(map(len, slow.given), reverse=True)[0] > 1
    assert sum(map(len, slow.given)) == len(sizes)
    assert all(len(set(shapes)) == 1 for shapes in slow.given)
    for i, (size, answer) in enumerate(zip(sizes, answers, strict=True)):
        assert_answers(answer.json(), detector.predict(picture(*size, seed=i)), *size)


def test_late_answers_and_defects_do_no_harm(detector: Detector, schema: dict[str, Any]) -> None:
    """504 at the time limit, also for what waits, which is then not predicted; 500 says nothing of the inside."""
    slow = Slow(detector)

    async def ask() -> None:
        async with inside(slow.detector, timeout=2, max_batch=1) as client:

            async def post(width: int) -> httpx.Response:
                answer = await client.post("/predict", files={"image": encoded(picture(width, 40))})
                assert_documented(schema, answer)
                return answer

            late = await asyncio.gather(post(50), post(60), post(70))
            assert [answer.status_code for answer in late] == [504] * 3
            assert late[0].json() == {"detail": "the request was not answered within 2 s"}
            assert (await client.get("/healthz")).json()["requests"] == 0
            slow.go.set()
            broken = await post(77)
            assert (broken.status_code, broken.json()) == (500, {"detail": "internal error: RuntimeError"})
            assert (await post(50)).status_code == 200

    asyncio.run(ask())
    assert len(slow.given) == 3
    assert [shapes[0][1] for shapes in slow.given][1:] == [77, 50]


def test_photos_of_clients_that_have_gone_are_not_predicted(
    detector: Detector, caplog: pytest.LogCaptureFixture
) -> None:
    slow = Slow(detector)

    async def ask() -> None:
        async with inside(slow.detector) as client:
            first = asyncio.create_task(client.post("/predict", files={"image": encoded(picture(50, 40))}))
            while not slow.given:
                await asyncio.sleep(0.01)
            said: list[Any] = []
            messages = [{"type": "http.request", "body": encoded(picture(60, 40))}, {"type": "http.disconnect"}]

            async def receive() -> dict[str, Any]:
                return messages.pop(0) if messages else {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                said.append(message)

            scope = {
                "type": "http",
                "method": "POST",
                "path": "/predict",
                "query_string": b"",
                "headers": [(b"content-type", b"image/png")],
            }
            gone = asyncio.create_task(client._transport.app(scope, receive, send))
            while (await client.get("/healthz")).json()["requests"] < 2:
                await asyncio.sleep(0.01)
            slow.go.set()
            assert (await first).status_code == 200
            await gone
            assert (await client.get("/healthz")).json()["requests"] == 0

    asyncio.run(ask())
    assert slow.given == [[(40, 50)]]
    assert not caplog.records


@pytest.mark.parametrize(
    ("host", "mine"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_which_hosts_are_this_machine_only(host: str, mine: bool) -> None:
    assert _is_loopback(host) == mine


def test_an_address_that_is_not_to_be_had(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a network for documentation, that no machine has: warned of, then refused; so is a port that is taken."""
    assert main(["serve", str(run), "--host", "192.0.2.1"]) == 2
    _, warning, error = capsys.readouterr().err.splitlines()
    assert warning.startswith("grcn: warning: others can reach 192.0.2.1")
    assert error.startswith("grcn: error: cannot listen on 192.0.2.1:8000: ")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(run), "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1:{port}: " in capsys.readouterr().err
    assert main(["serve", str(run), "--port", "70000"]) == 2
    assert "port 70000: needs 0 to 65535" in capsys.readouterr().err


def test_the_service_itself_needs_no_torch() -> None:
    """An exported detector is served without it."""
    program = "import sys, grcn.serve; assert not {'torch', 'grcn.predict.detector'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_missing_extra_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "grcn.serve")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", str(run)]) == 2
    assert capsys.readouterr().err == "grcn: error: needs uvicorn, which is not installed: pip install 'grcn[serve]'\n"


@pytest.mark.parametrize("words", ["--max_batch 0", "--max_bytes -1", "--timeout 0", "--timeout inf", "--max_pixels 0"])
def test_limits_are_checked_before_anything_is_loaded(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "absent", *words.split()]) == 2
    error = capsys.readouterr().err
    assert words.split()[0][2:] in error
    assert "absent" not in error
