"""The application: OpenAI's endpoints, the page, health and metrics."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from llmjax.serve import metrics, protocol
from llmjax.serve.answer import Answer
from llmjax.serve.body import read_json
from llmjax.serve.embedder import Embedder
from llmjax.serve.errors import ApiError
from llmjax.serve.gate import Gate
from llmjax.serve.limits import Limits
from llmjax.serve.reply import Reply
from llmjax.serve.writer import Writer

FOLDER = Path(__file__).parent
PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
# The page loads nothing but its own two files, and no other may frame it.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Served(NamedTuple):
    """A model under the name that clients call it; writer or embedder is None.

    adapters: the names of those that the engine keeps, in their order.
    """

    name: str
    writer: Writer | None = None
    embedder: Embedder | None = None
    adapters: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All that a request may ask for as its model."""
        return (self.name, *self.adapters)


def make(
    served: Served,
    limits: Limits = Limits(),
    *,
    api_key: str | None = None,
    any_host: bool = False,
) -> Starlette:
    """The ASGI application; see `Gate` for api_key and any_host."""
    counts = metrics.Metrics()
    if served.writer is not None:
        counts.watch(served.writer.worker)
    gate = Middleware(
        Gate, limits=limits, metrics=counts, api_key=api_key, any_host=any_host
    )
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", _chat, methods=["POST"]),
            Route("/v1/completions", _completions, methods=["POST"]),
            Route("/v1/embeddings", _embeddings, methods=["POST"]),
            Route("/v1/models", _models),
            Route("/v1/models/{name:path}", _model),
            Route("/health", _health),
            Route("/metrics", _metrics),
            *[Route(path, _file(*file)) for path, file in PAGE.items()],
        ],
        middleware=[gate],
        exception_handlers={
            ApiError: _on_api_error,
            HTTPException: _on_http_error,
        },
        lifespan=_lifespan,
    )
    app.state.served, app.state.limits, app.state.metrics = served, limits, counts
    app.state.created = int(time.time())
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    writer = app.state.served.writer
    if writer is None:
        yield
        return
    await writer.worker.start()
    yield
    await writer.worker.stop()


async def _chat(request: Request) -> Response:
    return await _write(request, protocol.read_chat)


async def _completions(request: Request) -> Response:
    return await _write(request, protocol.read_text)


async def _write(request: Request, read: Callable[..., protocol.Call]) -> Response:
    state, writer = request.app.state, request.app.state.served.writer
    body = await _read(request)
    if writer is None:
        raise ApiError(400, "this model is an encoder: it has /v1/embeddings only")
    call = read(body, state.limits)
    name = body.get("model") or state.served.name
    adapter = state.served.names.index(name) - 1  # the base comes first
    requests = await writer.prepare(
        call, state.limits, adapter=None if adapter < 0 else adapter
    )
    prompts = [one.prompt_ids for one in requests]
    reply = Reply(call, name, writer.tokenizer, prompts)
    return Answer(reply, requests, writer.worker, state.limits, state.metrics)


async def _embeddings(request: Request) -> Response:
    state, embedder = request.app.state, request.app.state.served.embedder
    body = await _read(request)
    if embedder is None:
        raise ApiError(400, "this model writes text; embeddings need an encoder")
    texts, as_base64 = protocol.read_embedding(body, state.limits)
    answer = await embedder.answer(texts, as_base64, state.served.name, state.limits)
    state.metrics.prompt_tokens.inc(answer["usage"]["prompt_tokens"])
    return JSONResponse(answer)


async def _read(request: Request) -> Any:
    """The body, of a request for what is served here."""
    state = request.app.state
    body = await read_json(request, state.limits.max_body_bytes)
    name = body.get("model") if isinstance(body, dict) else None
    if name is not None:
        _check_name(request, name)
    return body


def _check_name(request: Request, name: Any) -> None:
    known = request.app.state.served.names
    if name not in known:
        raise ApiError(
            404,
            f"no such model; this server has {', '.join(map(repr, known))}",
            param="model",
            code="model_not_found",
        )


async def _models(request: Request) -> Response:
    names = request.app.state.served.names
    data = [_describe(request.app, name) for name in names]
    return JSONResponse({"object": "list", "data": data})


async def _model(request: Request) -> Response:
    name = request.path_params["name"]
    _check_name(request, name)
    return JSONResponse(_describe(request.app, name))


def _describe(app: Starlette, name: str) -> dict[str, Any]:
    """The model as OpenAI lists one, and what else the page wants to know.

    An adapter is listed as a model of its own, with the base as its parent.
    """
    served, limits = app.state.served, app.state.limits
    endpoints = ["/v1/embeddings"] if served.embedder else []
    if served.writer is not None:
        endpoints.append("/v1/completions")
        if served.writer.template is not None:
            endpoints.append("/v1/chat/completions")
    return {
        "id": name,
        "object": "model",
        "created": app.state.created,
        "owned_by": "llmjax",
        "parent": None if name == served.name else served.name,
        "endpoints": endpoints,
        "max_new_tokens": limits.max_new_tokens,
    }


async def _health(request: Request) -> Response:
    writer = request.app.state.served.writer
    if writer is not None and writer.worker.failed:
        raise ApiError(503, "the engine has failed", code="engine_failed")
    return JSONResponse({"status": "ok"})


async def _metrics(request: Request) -> Response:
    return Response(request.app.state.metrics.text(), media_type=metrics.CONTENT_TYPE)


def _file(name: str, media_type: str) -> Callable[..., Any]:
    content = (FOLDER / name).read_bytes()

    async def send(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=PAGE_HEADERS)

    return send


async def _on_api_error(_: Request, error: ApiError) -> Response:
    return error.response()


async def _on_http_error(_: Request, error: HTTPException) -> Response:
    """What the router finds: no such path, or not this method."""
    return ApiError(error.status_code, error.detail).response()
