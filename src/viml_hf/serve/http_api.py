"""The HTTP interface: POST /recommend, GET /tracks/{id}/audio, GET /health."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from mimetypes import guess_type
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from viml_hf.errors import MediaDecodeError, ViMLError
from viml_hf.retrieval.wishes import Wishes, parse_weights
from viml_hf.serve.guard import Guard
from viml_hf.serve.problems import documented, handle_errors
from viml_hf.serve.service import MusicService

MOST_TRACKS = 1000
REFUSALS = (400, 401, 404, 408, 413, 422, 500, 503, 504)


class Result(BaseModel):
    """One recommended track."""

    rank: int = Field(description="From 1")
    id: str = Field(description="By which its sound is asked for")
    track: str = Field(description="Its name in the index")
    score: float = Field(description="What the ranking is by")
    start: float = Field(description="Where the window that fits best begins, in seconds")
    end: float = Field(description="Where it ends, in seconds")
    duration: float | None = Field(description="Of the track, in seconds")
    licence: str | None = Field(description="Where the library's manifest states one")
    similarity: float | None = Field(description="Cosine of the query and the window")
    shares: dict[str, float] = Field(description="What each part of the query adds to the score")
    percentile: float | None = Field(description="Of 100 other queries, for how many the best track has a lower score")
    tags_found: list[str] = Field(description="Its tags that the text names")
    tags_missing: list[str] = Field(description="The other tags that the text names")
    fields: dict[str, Any] = Field(description="All else that the index knows of the track, such as its tempo and key")
    audio: str = Field(description="Where its sound is, on this service")


class Answer(BaseModel):
    """The recommended tracks, best first."""

    results: list[Result]


class Health(BaseModel):
    """That the service runs."""

    status: Literal["ok"]
    version: str
    tracks: int
    queries: list[Literal["video", "text"]] = Field(description="What a query may be made of")
    running_and_waiting: int = Field(description="Queries, at this moment")


def build_app(service: MusicService, *, token: str | None = None, log_queries: bool = False) -> FastAPI:
    """The application, for any ASGI server; for the token see [`Guard`].

    With `log_queries` the log may hold the texts of queries.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="ViML",
        summary="Music for a video, guided by a text",
        version=version("viml-hf"),
        lifespan=lifespan,
    )
    handle_errors(app)
    app.add_middleware(Guard, settings=service.settings, token=token)

    @app.post("/recommend", responses=documented(*REFUSALS), operation_id="recommend")
    async def recommend(
        request: Request,
        # Not nullable in the description: a form has a file or has none, never null.
        video: Annotated[UploadFile, File(description="A video file")] = None,  # type: ignore[assignment]
        path: Annotated[str | None, Form(description="A video on the server, below its root")] = None,
        text: Annotated[str | None, Form(description="What the music should be like")] = None,
        k: Annotated[int, Form(ge=1, le=MOST_TRACKS, description="How many tracks")] = 10,
        where: Annotated[str | None, Form(description="Which tracks are ranked, such as `duration < 120`")] = None,
        like: Annotated[list[str], Form(description="Tracks of the library to be like, by name")] = [],  # noqa: B006
        avoid: Annotated[str | None, Form(description="What the music should not be like")] = None,
        exclude: Annotated[list[str], Form(description="Tracks to leave out, by name")] = [],  # noqa: B006
        weight: Annotated[list[str], Form(description="Of `like` or `avoid` (0.5) or `text`: `like=1`")] = [],  # noqa: B006
        diversity: Annotated[float, Form(description="From 0, by score alone, to 1: less that is alike")] = 0.0,
        min_score: Annotated[float | None, Form(description="Leave out what has a lower score")] = None,
        approximate: Annotated[bool, Form(description="Search a prepared index faster, nearly exactly")] = False,
        hubness_correction: Annotated[
            bool, Form(description="Take from each track's similarity how near it is to all queries")
        ] = True,
    ) -> Answer:
        """Rank the library for a video (uploaded, or named by its path), a text, or both."""
        log: dict[str, Any] = request.state.log
        log["query"] = {"video": "upload" if video else "path" if path else None, "characters": len(text or "")}
        if log_queries:
            log["query"]["text"] = text
        if video is not None and path is not None:
            raise ViMLError("video and path are both given: give one of them")
        wishes = Wishes(like, avoid, exclude, parse_weights(weight), diversity, min_score)
        options: dict[str, Any] = {"approximate": approximate, "hubness_correction": hubness_correction}
        if video is None:
            found = await service.recommend(
                None if path is None else service.path_below_root(path), text, k, where, wishes, **options
            )
        else:
            with tempfile.TemporaryDirectory(prefix="viml-upload-") as folder:
                saved = Path(folder) / "video"
                await asyncio.to_thread(_save, video, saved)
                try:
                    found = await service.recommend(saved, text, k, where, wishes, **options)
                except MediaDecodeError as error:
                    raise MediaDecodeError(video.filename or "the video", error.stage, error.cause) from None
        return Answer(results=[Result(**one, audio=f"/tracks/{one['id']}/audio") for one in found])

    @app.get("/tracks/{id}/audio", responses=documented(*REFUSALS[:-2]) | AUDIO, operation_id="audio")
    @app.head("/tracks/{id}/audio", include_in_schema=False)
    async def audio(id: str) -> FileResponse:
        """A track's file; ranges of its bytes too, for players that jump."""
        track, path = service.track(id)
        return FileResponse(
            path,
            media_type=guess_type(path.name)[0] or "application/octet-stream",
            filename=Path(track.name).name,
            content_disposition_type="inline",
        )

    @app.get("/health", operation_id="health")
    async def health() -> Health:
        """Whether the service runs, and with what. It needs no token."""
        return Health(version=version("viml-hf"), **service.health())

    return app


AUDIO: dict[int | str, dict] = {
    200: {"description": "The file", "content": {"audio/*": {}, "video/*": {}, "application/octet-stream": {}}},
    206: {"description": "The bytes asked for", "content": {"audio/*": {}, "video/*": {}}},
    416: {"description": "No such bytes"},
}


def _save(upload: UploadFile, path: Path) -> None:
    with path.open("xb") as file:
        shutil.copyfileobj(upload.file, file)
