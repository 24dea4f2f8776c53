"""The MCP server, asked by the official client."""

import asyncio
import json

from mcp.client import Client

from viml_hf.serve.mcp_tools import build_mcp_server
from viml_hf.serve.service import MusicService, ServiceSettings


def asked(recommender, root, *calls):
    """The answers of the tools, one after the other."""

    async def ask():
        async with Client(build_mcp_server(MusicService(recommender, ServiceSettings(root=root)))) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            return names, [await client.call_tool(name, arguments) for name, arguments in calls]

    return asyncio.run(ask())


def test_the_tools_answer_as_the_recommender(recommender, video, library):
    query = {"video": video.name, "text": "jazz", "k": 2}
    names, (found, health) = asked(recommender, video.parent, ("recommend", query), ("health", {}))
    assert names == {"recommend", "track_file", "health"}
    results = found.structured_content["result"]
    expected = recommender.recommend(video, "jazz", 2)
    assert [(one["track"], one["score"]) for one in results] == [(one.track, one.score) for one in expected]
    assert json.loads(health.content[0].text)["tracks"] == 3
    _, (track,) = asked(recommender, None, ("track_file", {"id": results[0]["id"]}))
    assert json.loads(track.content[0].text)["path"] == str(library / results[0]["track"])


def test_wishes_are_those_of_the_recommender(recommender, library):
    liked, left_out = (recommender.index.tracks[number].name for number in (0, 1))
    wishes = {"like": [liked], "avoid": "drums", "exclude": [left_out], "diversity": 0.2}
    _, (found, refused) = asked(
        recommender,
        None,
        ("recommend", {"text": "jazz", **wishes}),
        ("recommend", {"text": "jazz", "like": [str(library / "short.wav")]}),
    )
    expected = recommender.recommend(text="jazz", **wishes)
    assert [(one["track"], one["shares"]) for one in found.structured_content["result"]] == [
        (one.track, one.shares) for one in expected
    ]
    assert refused.is_error
    assert "no track" in refused.content[0].text


def test_what_cannot_be_answered_is_told_in_one_line(recommender, video):
    calls = (
        ("recommend", {}),
        ("recommend", {"video": "../x.mp4"}),
        ("track_file", {"id": "0"}),
        ("recommend", {"k": 0, "text": "a"}),
    )
    _, answers = asked(recommender, video.parent, *calls)
    for answer, said in zip(answers, ("empty", "no such file", "no track", "k=0"), strict=True):
        assert answer.is_error
        assert said in answer.content[0].text
        assert "\n" not in answer.content[0].text
