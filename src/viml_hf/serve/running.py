"""Running a service until it is stopped. What the extra `serve` brings is imported here, and asked for in one line."""

import logging
import socket
import sys

from viml_hf.errors import ViMLError
from viml_hf.serve.service import MusicService

INSTALL = "`viml serve` needs {}: pip install 'viml-hf[serve]'"


def run_http(
    service: MusicService, host: str, port: int, *, token: str | None = None, log_queries: bool = False
) -> None:
    """Listen until SIGINT or SIGTERM; queries that run then are answered first. For the options see `build_app`.

    Port 0 stands for any that is free, which the log names. `ViMLError` is raised where nothing can listen there, or
    the extra `serve` is not installed.
    """
    try:
        import uvicorn

        from viml_hf.serve.http_api import build_app
    except ImportError as error:
        raise ViMLError(INSTALL.format(error.name)) from error
    log = logging.getLogger("viml_hf.serve")
    log.addHandler(logging.StreamHandler(sys.stderr))
    log.setLevel(logging.INFO)
    log.propagate = False
    if token is None and host not in ("127.0.0.1", "::1", "localhost"):
        log.warning("every machine that reaches %s may ask: give --token to let in those who know it", host)
    app = build_app(service, token=token, log_queries=log_queries)
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=max(1, round(service.settings.query_seconds)),
    )
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ViMLError(
            f"{host}:{port}: cannot listen there ({error.strerror}); give another --host or --port"
        ) from error
    log.info("listening at http://%s:%d, described at /docs and /openapi.json", *listener.getsockname()[:2])
    uvicorn.Server(config).run(sockets=[listener])


def run_mcp(service: MusicService) -> None:
    """Speak MCP over standard input and output until the other side closes them; `ViMLError` without `serve`."""
    try:
        from viml_hf.serve.mcp_tools import build_mcp_server
    except ImportError as error:
        raise ViMLError(INSTALL.format(error.name)) from error
    try:
        build_mcp_server(service).run()
    finally:
        service.close()
