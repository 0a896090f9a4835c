"""`grcn serve`: a detector as an HTTP service. POST /predict takes a photo, GET /healthz says which detector answers.

A request passes through `Gate` (limits on bytes and seconds), the endpoint (content type and fields), and `Batcher`
(one thread that predicts waiting photos, and others that decode them). docs/adr/0017-service.md has the reasons.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import uvicorn
from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic.json_schema import SkipJsonSchema
from python_multipart.exceptions import FormParserError
from starlette.datastructures import Headers, UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grcn import __version__
from grcn.config import Score, ScoreChoice, ServeLimits
from grcn.data.image import read_image
from grcn.errors import ConfigError, ImageError, first_line
from grcn.types import Detections

if TYPE_CHECKING:
    from grcn.predict.detector import Detector

# A list, not a tuple: many generators of clients do not know OpenAPI 3.1's tuples.
_Box = Annotated[list[float], Field(min_length=4, max_length=4)]


class Prediction(BaseModel):
    """The objects found in one photo, by descending score: `boxes[i]` has the class `names[i]`."""

    width: int = Field(description="width of the upright photo, in pixels")
    height: int
    boxes: list[_Box] = Field(description="x1, y1, x2, y2 in pixels of the upright photo")
    scores: list[float] = Field(description="0..1")
    class_ids: list[int] = Field(description="0..C-1, indices into `classes` of /healthz")
    names: list[str]


class Health(BaseModel):
    """The detector that answers."""

    detector: str = Field(description="its preset")
    classes: list[str] = Field(description="names by class id")
    thresholds: dict[str, Any] | None = Field(
        description="score thresholds, chosen on a labelled split: `best` and `precise` by class, `temperature`, ..."
    )
    ready: bool = Field(description="whether the service answers photos")
    requests: int = Field(description="photos that are arriving, waiting or being predicted")


class Problem(BaseModel):
    """Why there is no answer, in one line."""

    detail: str


@dataclass(frozen=True)
class _Answer:
    found: Detections
    width: int
    height: int


@dataclass(frozen=True)
class _Waiting:
    content: bytes
    score: Score | None
    answer: asyncio.Future[_Answer]
    request: Request


class Batcher:
    """Predicts the photos of concurrent requests together, in its own thread.

    Whenever the thread is free, it takes the waiting photos, up to `max_batch`. No photo waits for a batch to fill.
    Only photos of one size share a pass through the network. Others would be padded, which changes scores slightly, and
    an answer must not depend on other requests.
    """

    def __init__(self, detector: Detector, limits: ServeLimits) -> None:
        self.detector, self.limits = detector, limits
        self.requests = 0
        self.ready = False
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Takes a place in the service while it is open. Answers 503 if all places are taken."""
        if self.requests >= self.limits.max_requests:
            raise HTTPException(
                503, f"{self.requests} photos are in the service already: try again", {"Retry-After": "1"}
            )
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    async def submit(self, content: bytes, score: Score | None, request: Request) -> _Answer:
        """The detections in an encoded photo.

        Args:
            score: objects with a lower score may be left out; None: the detector's own threshold.

        Raises:
            ImageError: if it is not a photo, or too large.
            ConfigError: if the detector does not go down to this score.
            ClientDisconnect: if the client has gone.
        """
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Waiting(content, score, answer, request))
        return await answer

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers photos while it is open. It begins with a prediction that warms the network up."""
        with ThreadPoolExecutor(1, "grcn-predict") as thread:
            blank = np.zeros((480, 640, 3), np.uint8)
            await asyncio.get_running_loop().run_in_executor(thread, self.detector.predict, blank)
            work = asyncio.create_task(self._work(thread))
            work.add_done_callback(lambda _: setattr(self, "ready", False))  # at the end; earlier only after a defect
            self.ready = True
            try:
                yield
            finally:
                work.cancel()

    async def _work(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            taken = [await self._queue.get()]
            while len(taken) < self.limits.max_batch and not self._queue.empty():
                taken.append(self._queue.get_nowait())
            batch = []
            for waiting in taken:
                if waiting.answer.done():  # cancelled, because its time is over
                    continue
                if await waiting.request.is_disconnected():
                    waiting.answer.set_exception(ClientDisconnect())
                else:
                    batch.append(waiting)
            try:
                answers = await loop.run_in_executor(thread, self._answers, batch)
            except Exception as error:  # a defect, or no memory: these photos get a 500, the next ones are tried
                answers = [error] * len(batch)
            for waiting, answer in zip(batch, answers, strict=True):
                if waiting.answer.done():
                    continue
                if isinstance(answer, Exception):
                    waiting.answer.set_exception(answer)
                else:
                    waiting.answer.set_result(answer)

    def _answers(self, batch: list[_Waiting]) -> list[_Answer | Exception]:
        """The detections in each photo, or what is wrong with it or its score."""
        answers: dict[int, _Answer | Exception] = {}
        # Photos by their index, grouped by the score if that is below the detector's own threshold.
        scores: dict[Score | None, dict[int, bytes]] = {}
        for place, waiting in enumerate(batch):
            score = None if self.detector.lowered(waiting.score) is None else waiting.score
            scores.setdefault(score, {})[place] = waiting.content
        for score, photos in scores.items():
            work = self.detector.stream(
                photos.items(), score=score, batch_size=self.limits.max_batch, read=self._read, finish=_answer
            )
            try:
                answers |= {place: answer for (place, _), answer in work}
            except ConfigError as error:
                answers |= dict.fromkeys(photos, error)
        return [answers[place] for place in range(len(batch))]

    def _read(self, photo: tuple[int, bytes]) -> NDArray[np.uint8]:
        return read_image(photo[1], name="image", max_pixels=self.limits.max_pixels)


def _answer(_: tuple[int, bytes], photo: NDArray[np.uint8], found: Detections) -> _Answer:
    return _Answer(found, photo.shape[1], photo.shape[0])


class Gate:
    """Bounds every request in bytes and in seconds, whatever the app does with it.

    A body is counted while it arrives. An answer that is ready before the body has ended is sent at once. The rest of
    the body is then read and discarded. If the connection were closed at once, a client that is still sending would see
    a broken connection instead of the answer.
    """

    def __init__(self, app: ASGIApp, limits: ServeLimits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        size, ended, started = 0, False, False
        declared = int(Headers(scope=scope).get("content-length", 0))  # the HTTP parser only passes digits

        async def next_part() -> Message:
            nonlocal ended
            message = await receive()
            ended = not message.get("more_body", False)
            return message

        async def receive_bounded() -> Message:
            nonlocal size
            if declared <= self.limits.max_bytes:
                message = await next_part()
                size += len(message.get("body", b""))
                if size <= self.limits.max_bytes:
                    return message
            raise HTTPException(413, f"body: more than {self.limits.max_bytes} bytes are refused")

        async def send_and_drain(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.body" and not message.get("more_body", False) and not ended:
                await send({**message, "more_body": True})
                while (await next_part()).get("more_body", False):
                    pass
                message = {"type": "http.response.body"}
            await send(message)

        try:
            async with asyncio.timeout(self.limits.timeout):
                await self.app(scope, receive_bounded, send_and_drain)
        except ClientDisconnect:
            pass
        except TimeoutError:
            if not started:
                code, what = (504, "answered") if ended else (408, "sent")
                detail = f"the request was not {what} within {self.limits.timeout:g} s"
                response = JSONResponse({"detail": detail}, code, {"Connection": "close"})
                await response(scope, receive, send)


_Number = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Score = _Number | ScoreChoice
_SCORE: TypeAdapter[Score] = TypeAdapter(_Score)
_SCORE_HELP = (
    "leave out objects with a lower score; best, precise: use the scores of each class in `thresholds` of /healthz; "
    "default: the detector's own threshold"
)

_REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {"type": "string", "format": "binary", "description": "the photo's file"},
                    "score": {**_SCORE.json_schema(), "description": _SCORE_HELP},
                },
                "additionalProperties": False,
            }
        },
        "image/*": {"schema": {"type": "string", "format": "binary"}},
    },
}

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": description}
    for code, description in {
        400: "a form that cannot be read",
        408: "the body did not arrive in time",
        413: "the body is too long",
        415: "neither a form nor an image",
        422: "no photo, or one that cannot be decoded or has too many pixels; a score outside 0..1 or too low, or "
        "thresholds that the detector does not have",
        500: "a defect of the service",
        503: "too many requests; Retry-After says when to try again",
        504: "no answer in time",
    }.items()
}


def create_app(detector: Detector, limits: ServeLimits, ready: Callable[[], None] = lambda: None) -> ASGIApp:
    """The service as an ASGI application.

    Args:
        detector: the detector that answers.
        limits: the limits of the service, except for `max_connections`, which the server keeps.
        ready: called when the service begins to answer photos.
    """
    batcher = Batcher(detector, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with batcher.running():
            ready()
            yield

    app = FastAPI(
        title="grcn",
        version=__version__,
        description="Objects in photos.",
        lifespan=lifespan,
        redoc_url=None,
        exception_handlers={
            RequestValidationError: _invalid,
            ImageError: _refused,
            ConfigError: _refused,
            Exception: _defect,
        },
    )

    app.include_router(_endpoints(batcher))
    return Gate(app, limits)


def _endpoints(batcher: Batcher) -> APIRouter:
    router, detector = APIRouter(), batcher.detector

    @router.get("/healthz", operation_id="healthz", summary="The detector that answers")
    async def healthz() -> Health:
        return Health(
            detector=detector.preset or "detector",
            classes=list(detector.class_names),
            thresholds=detector.thresholds.to_json() if detector.thresholds else None,
            ready=batcher.ready,
            requests=batcher.requests,
        )

    @router.post(
        "/predict",
        operation_id="predict",
        summary="Objects in a photo",
        description="The photo is the file `image` of a form, or the whole body. Its content shows its kind.",
        responses=_PROBLEMS,
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    async def predict(
        request: Request,
        score: Annotated[
            _Score | SkipJsonSchema[None], Query(description=f"{_SCORE_HELP}. The field of a form takes precedence.")
        ] = None,
    ) -> Prediction:
        with batcher.admitted():
            content, score_of_form = await _upload(request)
            lowest = score if score_of_form is None else score_of_form
            least = detector.least(lowest)
            answer = await batcher.submit(content, lowest, request)
        found = answer.found if least is None else answer.found.above(least)
        return Prediction(
            width=answer.width,
            height=answer.height,
            boxes=found.boxes.tolist(),
            scores=found.scores.tolist(),
            class_ids=found.class_ids.tolist(),
            names=found.names,
        )

    return router


async def _upload(request: Request) -> tuple[bytes, Score | None]:
    """The bytes of the photo, and the score in the form if it has one.

    Raises:
        HTTPException: on another content type, and on fields other than one file `image` and one `score`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/"):
        return await request.body(), None
    if kind != "multipart/form-data":
        raise HTTPException(
            415, f"content type '{_short(kind)}': send a form with the file 'image', or the image as image/jpeg, ..."
        )
    try:
        async with request.form(max_files=1, max_fields=1, max_part_size=1000) as form:
            unknown = next((name for name in form if name not in ("image", "score")), None)
            if unknown is not None:
                raise HTTPException(422, f"field '{_short(unknown)}': unknown; the photo is the file 'image'")
            image = form.get("image")
            if not isinstance(image, UploadFile):
                raise HTTPException(422, "image: missing; the form needs a file of this name")
            try:
                score = _SCORE.validate_python(form["score"]) if "score" in form else None
            except ValidationError as error:
                raise HTTPException(422, f"score: {error.errors()[0]['msg']}") from None
            return await image.read(), score
    except FormParserError as error:  # starlette handles some errors of its parser itself; newer releases handle all
        raise HTTPException(400, f"form: cannot be read: {first_line(error)}") from None


def _short(text: str) -> str:
    """A client's text, shortened so that an answer can show it in one line."""
    return " ".join(text.split())[:40]


def _problem(code: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, code)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _problem(422, f"{first['loc'][1]}: {first['msg']}")  # loc: query, score, ...


async def _refused(_: Request, error: Exception) -> JSONResponse:
    return _problem(422, str(error))


async def _defect(_: Request, error: Exception) -> JSONResponse:
    return _problem(500, f"internal error: {type(error).__name__}")  # the log has its message and traceback


def serve(detector: Detector, host: str, port: int, limits: ServeLimits, say: Callable[[str], None]) -> None:
    """Answers until SIGINT or SIGTERM. Then it accepts no more requests, answers those that it has, and returns.

    Args:
        detector: the detector that answers.
        host, port: where to listen; port 0: a free port.
        limits: the limits of the service.
        say: called with messages for the user, such as the address when the service begins to answer photos.

    Raises:
        ConfigError: if it cannot listen there.
    """
    if not _is_loopback(host):
        say(f"warning: others can reach {host}, and there is no encryption or password; put a proxy in front of it")
    listener = _listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    app = create_app(detector, limits, lambda: say(f"{address}: ready; POST photos to /predict; Ctrl-C stops"))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",  # the default depends on what is installed
            ws="none",
            lifespan="on",
            log_level="error",
            access_log=False,
            server_header=False,
            limit_concurrency=limits.max_connections + 1,  # uvicorn refuses the connection that reaches this number
            # Requests have their own limit. This one is for connections whose clients never read their answer.
            timeout_graceful_shutdown=math.ceil(limits.timeout) + 1,
        )
    )

    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each invalid form

    def stop(*_: object) -> None:
        server.should_exit = True

    # When it has stopped, uvicorn raises the signal again. Without a handler, that would end the process as a failure.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    say("stopped")


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port}: needs 0 to 65535")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        what = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen on {host}:{port}: {what}; choose another --host or --port") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
