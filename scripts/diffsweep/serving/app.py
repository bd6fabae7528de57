"""The endpoint: openai's `POST /v1/images/generations` over one worker; `GET /health`, `/v1/models` and `/metrics`.

Bodies are parsed by hand (serving/parsing.py): pydantic would answer with a list of errors where a person wants one
sentence. Errors have openai's form, so that its client shows the sentence.
"""

import asyncio
import json
import logging
import time

from fastapi import FastAPI, Request, Response
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from diffsweep.serving.metrics import Meter
from diffsweep.serving.parsing import BadRequest, Service, Wanted, parse_request, read_warmup
from diffsweep.serving.worker import Done, QueueFull, Worker

log = logging.getLogger("diffsweep.serving")


def create_app(service: Service, worker: Worker) -> FastAPI:
    app = FastAPI(title="diffsweep", openapi_url=None, docs_url=None, redoc_url=None)
    meter = Meter(service)
    card = {"id": service.model, "object": "model", "created": int(time.time()), "owned_by": "diffsweep"}

    @app.post("/v1/images/generations")
    async def generations(request: Request) -> Response:
        received_s = time.perf_counter()
        warmup = False
        meter.in_progress += 1
        try:
            warmup = read_warmup(request.headers)
            wanted = parse_request(await _body(request, service.limits.body_bytes), service)
            done = await _result(request, worker, wanted)
            answer = reply(wanted, done, received_s)
        except BadRequest as refused:
            meter.refused(refused.status, warmup)
            raise
        finally:
            meter.in_progress -= 1
        response = _json(answer)
        # Run when the last byte is sent, before the event loop turns to anything else.
        response.background = BackgroundTask(meter.answered, answer["metrics"], len(done.images), warmup)
        return response

    @app.get("/health")
    async def health() -> Response:
        return _json({"status": "ok"})

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        document, content_type = meter.exposition(request.headers.get("accept", ""))
        return Response(document, headers={"Content-Type": content_type})

    @app.get("/v1/models")
    async def models() -> Response:
        return _json({"object": "list", "data": [card]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        if name != service.model:
            raise BadRequest(f"There is no model {name[:60]!a} here.", "model", 404, "model_not_found")
        return _json(card)

    @app.exception_handler(BadRequest)
    async def refuse(_request: Request, error: BadRequest) -> Response:
        return _error(error.status, error.message, error.param, error.code)

    @app.exception_handler(HTTPException)
    async def unknown_route(request: Request, error: HTTPException) -> Response:
        return _error(error.status_code, f"{request.method} {request.url.path[:60]!a}: {error.detail}.")

    return app


async def _body(request: Request, limit_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise BadRequest(f"The body is larger than {limit_bytes} bytes.", status=413, code="too_long")
    return bytes(body)


async def _result(request: Request, worker: Worker, wanted: Wanted) -> Done:
    """The job's result. When the client leaves before its turn comes, the job is taken out of the queue."""
    try:
        job = asyncio.wrap_future(worker.submit(wanted))
    except QueueFull:
        raise BadRequest("The queue is full; try again later.", status=429, code="queue_full") from None
    gone = asyncio.ensure_future(request.receive())  # after the body, the next message is the disconnection
    await asyncio.wait((job, gone), return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if not job.done():
        job.cancel()
        raise BadRequest("The client closed the connection.", status=499, code="client_closed")
    error = job.exception()
    if error is not None:
        log.error("the pipeline failed on a request", exc_info=error)
        sentence = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadRequest(f"The pipeline failed: {sentence[:300]}", status=500, code="pipeline_failed")
    return job.result()


def reply(wanted: Wanted, done: Done, received_s: float) -> dict:
    """The answer; `metrics` in seconds, but for batch_size, the images of the call that made these, others' included.

    total_s is from the arrival of the request's head until just before sending.
    """
    return {
        "created": int(time.time()),
        "data": [{"b64_json": image} for image in done.images],
        "output_format": "png",
        "size": f"{wanted.width}x{wanted.height}",
        "seed": wanted.seeds[0],
        "metrics": {
            "queue_s": done.started_s - received_s,
            "prompt_encode_s": done.prompt_encode_s,
            "setup_s": done.setup_s,
            "step_s": done.step_s,
            "decode_s": done.decode_s,
            "image_encode_s": done.image_encode_s,
            "total_s": time.perf_counter() - received_s,
            "batch_size": done.batch_size,
        },
    }


def _json(value: object, status: int = 200) -> Response:
    return Response(json.dumps(value), status, media_type="application/json")


def _error(status: int, message: str, param: str | None = None, code: str | None = None) -> Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return _json({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)
