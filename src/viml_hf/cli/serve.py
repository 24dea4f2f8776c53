"""`viml serve`: answer queries over HTTP, or as an MCP server."""

import argparse
import os
from pathlib import Path

from viml_hf.errors import ViMLError

MEGABYTE = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("index", metavar="INDEX", help="folder made by `viml index`, or milvus:…")
    add("--model", help="model folder or Hub id; by default the one that made the index")
    add("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine only)")
    add("--port", type=int, default=8000, help="port to listen at (default: 8000)")
    add("--root", type=Path, help="folder of videos that queries may name by their path; by default none")
    add("--token", default=os.environ.get("VIML_TOKEN"), help="what `Authorization: Bearer` must hold (or VIML_TOKEN)")
    add("--workers", type=int, default=2, help="queries that run at the same time (default: 2)")
    add("--waiting", type=int, default=32, help="queries that may wait; more get status 503 (default: 32)")
    add("--query-seconds", type=float, default=120.0, help="time for an answer (default: 120)")
    add("--upload-megabytes", type=float, default=200.0, help="largest request (default: 200)")
    add("--upload-seconds", type=float, default=60.0, help="time for a request to arrive (default: 60)")
    add("--video-seconds", type=float, default=600.0, help="longest video of a query (default: 600)")
    add("--video-pixels", type=float, default=2e10, help="pictures × width × height of a video (default: 2e10)")
    add("--characters", type=int, default=2000, help="longest text of a query (default: 2000)")
    add("--log-queries", action="store_true", help="let the log hold the texts of queries")
    add("--mcp", action="store_true", help="speak MCP over standard input and output, for assistants, and not HTTP")


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is loaded."""
    if not 0 <= options.port <= 65535:
        raise ViMLError(f"--port {options.port}: give a number from 1 to 65535, or 0 for any that is free")
    if options.token is not None and not options.token.strip():
        raise ViMLError("the token is empty: give --token TOKEN, or leave it and VIML_TOKEN out")
    if options.mcp and (options.token or options.log_queries):
        raise ViMLError("--token and --log-queries have no effect with --mcp, which no network reaches: leave them out")


def run(options: argparse.Namespace) -> None:
    """Serve until interrupted."""
    from viml_hf.retrieval.query_limits import QueryLimits
    from viml_hf.retrieval.recommender import Recommender
    from viml_hf.serve.running import run_http, run_mcp
    from viml_hf.serve.service import MusicService, ServiceSettings

    settings = ServiceSettings(
        options.root,
        options.workers,
        options.waiting,
        options.query_seconds,
        int(options.upload_megabytes * MEGABYTE),
        options.upload_seconds,
    )
    limits = QueryLimits(
        seconds=options.video_seconds, video_pixels=options.video_pixels, characters=options.characters
    )
    recommender = Recommender.from_pretrained(options.model, index=options.index, limits=limits)
    service = MusicService(recommender, settings)
    if options.mcp:
        run_mcp(service)
    else:
        run_http(service, options.host, options.port, token=options.token, log_queries=options.log_queries)
