"""Asks an ASGI application without a server."""

import asyncio
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp


def ask(app: ASGIApp, method: str, path: str, **request: Any) -> httpx.Response:
    """The application's answer to one request."""

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
            return await client.request(method, path, **request)

    return asyncio.run(send())


class _Synchronous(httpx.BaseTransport):
    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = ask(self._app, request.method, str(request.url), headers=request.headers, content=request.read())
        return httpx.Response(response.status_code, headers=response.headers, content=response.content)


def client_of(app: FastAPI) -> httpx.Client:
    """A client for code that brings its own calls."""
    return httpx.Client(transport=_Synchronous(app), base_url="http://app")
