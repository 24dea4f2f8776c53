"""The same operations as tools of an MCP server, for assistants that run on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.retrieval.wishes import Wishes
from viml_hf.serve.service import MusicService

INSTRUCTIONS = (
    "Finds music for a video in a library. `recommend` ranks the tracks for a video file, for a description of the "
    "music, or for both. `track_file` gives the file of a track that was recommended."
)


def build_mcp_server(service: MusicService) -> MCPServer:
    """The server; `run()` speaks MCP over standard input and output."""
    server = MCPServer("viml", instructions=INSTRUCTIONS, version=version("viml-hf"), log_level="WARNING")

    @server.tool()
    async def recommend(
        video: str | None = None,
        text: str | None = None,
        k: int = 10,
        where: str | None = None,
        like: list[str] | None = None,
        avoid: str | None = None,
        exclude: list[str] | None = None,
        diversity: float = 0.0,
        hubness_correction: bool = True,
    ) -> list[dict[str, Any]]:
        """Rank the library for a video, a description of the music, or both. The best tracks come first.

        Args:
            video: Path of a video, relative to the folder that the server was started with (`--root`).
            text: What the music should be like, such as "slow piano".
            k: How many tracks.
            where: Which tracks are ranked, such as "licence in ('CC0', 'CC-BY') and duration < 120".
            like: Tracks of the library that the result should be like, by name; they are left out.
            avoid: What the music should not be like, such as "vocals".
            exclude: Tracks to leave out, by name.
            diversity: From 0, by score alone, to 1: less of what is alike.
            hubness_correction: Take from each track's similarity how near it is to all queries.
        """
        with _told():
            path = None if video is None else service.path_below_root(video)
            wishes = Wishes(like or (), avoid, exclude or (), diversity=diversity)
            return await service.recommend(path, text, k, where, wishes, hubness_correction=hubness_correction)

    @server.tool()
    async def track_file(id: str) -> dict[str, Any]:
        """The file of a track, by the `id` that `recommend` gave.

        Args:
            id: The track's id.
        """
        with _told():
            track, path = service.track(id)
            return {"track": track.name, "path": str(path), "duration": track.duration, "licence": track.licence}

    @server.tool()
    async def health() -> dict[str, Any]:
        """How many tracks the library has, and what a query may be made of."""
        return service.health()

    return server


@contextmanager
def _told() -> Iterator[None]:
    """What is wrong with a query, as a tool tells it."""
    try:
        yield
    except ViMLError as error:
        raise ToolError(in_one_line(error)) from error
