"""The Space: its page over HTTP and in a real browser, on a tiny untrained model."""

import html
import importlib.util
import json
import re
import shutil
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

from tests.media import sine, write_audio, write_video
from tests.retrieval.conftest import make_encoder
from viml_hf import Recommendation, Recommender, ViMLError, build_index, find_music
from viml_hf.processing.audio_decoding import iter_audio
from viml_hf.retrieval.reasons import reasons

gr = pytest.importorskip("gradio", reason="the Space needs gradio")
from gradio_client import Client, handle_file  # noqa: E402 (comes with gradio)
from gradio_client.exceptions import AppError  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SPACE = ROOT / "examples/space"
TEXT = "slow piano"
# Nothing of a name may mean something to HTML, to a URL, or to gradio's templates.
ODD = 'album/a #1? 50%41 & <b>{{1}} ${2} "q" 日本語.wav'
SECONDS = {"short.wav": 8, ODD: 25, "album/long.wav": 62}


def load_space():
    spec = importlib.util.spec_from_file_location("space_app", SPACE / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


space = load_space()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`music/` with three tracks and a link out of it; a file beside it; two videos, one of them broken."""
    folder = tmp_path_factory.mktemp("space")
    (folder / "music/album").mkdir(parents=True)
    for pitch, (name, seconds) in enumerate(SECONDS.items(), start=1):
        write_audio(folder / "music" / name, sine(220 * pitch, seconds, 22050), 22050)
    (folder / "secret.wav").write_bytes(b"secret")
    (folder / "music-of-others").mkdir()
    (folder / "music-of-others/secret.wav").write_bytes(b"secret")
    (folder / "music/link.wav").symlink_to(folder / "secret.wav")
    write_video(folder / "query.mp4", 24 * 6)
    (folder / "broken.mp4").write_bytes(b"this is no video" * 100)
    return folder


@pytest.fixture(scope="module")
def recommender(folder):
    encoder = make_encoder(0)
    music = [path for path in find_music(folder / "music") if not path.is_symlink()]
    return Recommender(encoder, build_index(music, encoder, model="x", root=folder / "music", progress=False))


@pytest.fixture(scope="module")
def url(recommender, folder):
    """Where the page is served."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        app = space.build_app(recommender, folder / "music", [(str(folder / "query.mp4"), TEXT)])
        _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **space.launch_options(folder / "music"))
        yield url.rstrip("/")
        app.close()


@pytest.fixture(scope="module")
def ask(url):
    """A query over the page's API; the tracks as HTML."""
    client = Client(url, verbose=False, analytics_enabled=False)

    def ask(video=None, text="", tracks=5, **wishes):
        return recommend(client, handle_file(video) if video else None, text, tracks, **wishes)

    return ask


def recommend(client, video, text, tracks, *, like=(), avoid="", where="", diversity=0, call="predict"):
    wishes = (list(like), avoid, where, diversity)
    return getattr(client, call)(video, text, tracks, *wishes, api_name="/recommend")


def names(page):
    return [html.unescape(name) for name in re.findall(r"<bdi>(.*?)</bdi>", page)]


def sources(page):
    return re.findall(r'<audio [^>]*src="([^"]*)"', page)


def status(url):
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_ranking_is_that_of_the_recommender(ask, recommender, folder):
    video = str(folder / "query.mp4")
    rankings = set()
    for query in ((video, ""), (None, TEXT), (video, TEXT)):
        page, found = ask(*query), recommender.recommend(*query, k=5)
        assert names(page) == [one.track for one in found]
        assert re.findall(r"score (-?\d\.\d\d)", page) == [f"{one.score:.2f}" for one in found]
        assert [float(source.partition("#t=")[2]) for source in sources(page)] == [one.start for one in found]
        rankings.add(page)
    assert len(rankings) == 3
    assert names(ask(None, TEXT, 2)) == [one.track for one in recommender.recommend(None, TEXT, k=2)]
    assert len(names(ask(None, TEXT, space.MAX_TRACKS))) == len(SECONDS)


def test_wishes_are_those_of_the_recommender(ask, recommender, folder):
    video, liked = str(folder / "query.mp4"), "short.wav"
    page = ask(video, TEXT, like=[liked], avoid="drums", where="duration < 60", diversity=0.5)
    found = recommender.recommend(video, TEXT, like=[liked], avoid="drums", where="duration < 60", diversity=0.5)
    assert names(page) == [one.track for one in found] == [ODD]
    (one,) = found
    assert html.escape(" · ".join(reasons(vars(one)))) in page
    assert "like +" in page
    assert "No track of the library is left" in ask(text=TEXT, where="duration > 1000")


def test_wishes_name_tracks_and_no_files_of_the_server(ask, folder):
    told = set()
    for path in (folder / "music/short.wav", folder / "nothing.wav"):
        with pytest.raises(AppError) as error:
            ask(text=TEXT, like=[str(path)])
        told.add(str(error.value).replace(str(path), ""))
    assert len(told) == 1
    assert "like: no track" in told.pop()
    with pytest.raises(AppError, match="is not told of here"):
        ask(text=TEXT, where=f"path = '{folder / 'music/short.wav'}'")


def test_it_says_when_nothing_fits(folder):
    facts = {"fields": {}, "shares": {"text": 0.5}}
    far, near = (Recommendation(1, "a.wav", 0.5, 0.0, 8.0, "", percentile=level, **facts) for level in (1.0, 50.0))
    assert "Nothing in this library fits well" in space.tracks_html([far], folder / "music")
    assert "Nothing" not in space.tracks_html([near], folder / "music")


def test_the_preview_is_the_video_with_the_chosen_track(url, recommender, folder):
    client = Client(url, verbose=False, analytics_enabled=False)
    with pytest.raises(AppError, match="ask with a video"):
        client.predict(1, api_name="/preview")
    recommend(client, handle_file(str(folder / "query.mp4")), TEXT, 5)
    ranking = [one.track for one in recommender.recommend(str(folder / "query.mp4"), TEXT)]
    made = client.predict(ranking.index("album/long.wav") + 1, api_name="/preview")
    with av.open(made) as preview, av.open(str(folder / "query.mp4")) as source:
        pictures = [[bytes(packet) for packet in one.demux(video=0) if packet.size] for one in (preview, source)]
        assert pictures[0] == pictures[1]
    sound = np.concatenate(list(iter_audio(made, 22050)))
    spectrum = np.abs(np.fft.rfft(sound[22050 : 3 * 22050]))
    assert np.argmax(spectrum) / 2 == pytest.approx(220 * list(SECONDS).index("album/long.wav") + 220, abs=1)
    for number in (0, 4, None, "1", [1]):
        with pytest.raises(AppError, match="choose one of the tracks"):
            client.predict(number, api_name="/preview")
    recommend(client, None, TEXT, 5)
    with pytest.raises(AppError, match="ask with a video"):
        client.predict(1, api_name="/preview")


def test_the_players_get_the_files(ask, url, folder):
    for name, source in zip(names(page := ask(None, TEXT)), sources(page), strict=True):
        with urllib.request.urlopen(url + source.partition("#")[0]) as answer:
            assert answer.headers.get_content_type() in ("audio/x-wav", "audio/wav")
            assert answer.read() == (folder / "music" / name).read_bytes()


@pytest.mark.parametrize(
    "text", ["\U0001f3b9 " * 900, "música lenta — 静かなピアノ", "<script>alert(1)</script>", "{{x}} ${y}"]
)
def test_any_text_is_a_query(ask, recommender, text):
    assert names(ask(None, text)) == [one.track for one in recommender.recommend(None, text, k=5)]


def test_errors_are_one_line(ask, folder, capfd):
    for query, said in (
        ((None, "   "), "The query is empty: give a video, a text, or both"),
        ((str(folder / "broken.mp4"), TEXT), "broken.mp4: "),
    ):
        with pytest.raises(AppError) as error:
            ask(*query)
        line = str(error.value)
        assert said in line
        assert "\n" not in line
        assert str(folder) not in line
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err


@pytest.mark.parametrize(("tracks", "said"), [(10**9, "greater than maximum"), (0, "less than minimum")])
def test_a_number_of_tracks_outside_the_slider_is_refused(ask, tracks, said):
    with pytest.raises(AppError, match=said):
        ask(None, TEXT, tracks)


def test_no_other_file_is_served(url, folder):
    music = folder / "music"
    # A file of the folder is, so that a refusal below is not for the form of the address.
    assert status(f"{url}/gradio_api/file={music}/short.wav") == 200
    for path in (
        "/etc/passwd",
        folder / "secret.wav",
        folder / "music-of-others/secret.wav",
        f"{music}/../secret.wav",
        f"{music}/..%2fsecret.wav",
        f"{music}/%2e%2e/secret.wav",
        music / "link.wav",
        SPACE / "app.py",
        ROOT / "pyproject.toml",
    ):
        assert status(f"{url}/gradio_api/file={path}") in (403, 404), path


def test_no_other_file_is_read_as_a_video(url, folder, recommender, monkeypatch):
    read = []
    make_query = recommender.make_query
    monkeypatch.setattr(recommender, "make_query", lambda video, text: read.append(video) or make_query(None, TEXT))

    def events(path):
        """What the server says of a file that it would have itself; the client would upload one of its own."""
        query = {"data": [{"path": str(path), "meta": {"_type": "gradio.FileData"}}, "", 5, [], "", "", 0]}
        headers = {"Content-Type": "application/json"}
        call = f"{url}/gradio_api/call/recommend"
        with urllib.request.urlopen(urllib.request.Request(call, json.dumps(query).encode(), headers)) as answer:
            event = json.load(answer)["event_id"]
        with urllib.request.urlopen(f"{call}/{event}") as answer:
            return answer.read().decode()

    for path in ("/etc/passwd", folder / "secret.wav"):
        assert "event: error" in events(path)
    assert read == []
    video = handle_file(str(folder / "query.mp4"))
    recommend(Client(url, verbose=False, analytics_enabled=False), video, "", 5)
    assert [Path(path).name for path in read] == ["query.mp4"]


def test_a_track_outside_the_folder_or_gone_has_no_player(folder):
    found = [Recommendation(1, name, 0.5, 0.0, 8.0, "") for name in ("../secret.wav", "/etc/passwd", "gone.wav")]
    page = space.tracks_html(found, folder / "music")
    assert page.count("not in the music folder") == 3
    assert sources(page) == []


def test_two_users_at_once_get_their_own_results(url, recommender, monkeypatch):
    texts = [f"text number {number}" for number in range(8)]
    expected = [[one.track for one in recommender.recommend(None, text, k=3)] for text in texts]
    scores = [[f"{one.score:.2f}" for one in recommender.recommend(None, text, k=3)] for text in texts]
    assert len({str(one) for one in scores}) > 1
    running, most, lock, embed = 0, 0, threading.Lock(), recommender.make_query

    def counted(*query):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.05)  # long enough for another query to come
        try:
            return embed(*query)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(recommender, "make_query", counted)

    def ask(user):
        client = Client(url, verbose=False, analytics_enabled=False)
        return [recommend(client, None, text, 3) for text in texts[user::4]]

    with ThreadPoolExecutor(4) as pool:
        pages = [page for pages in zip(*pool.map(ask, range(4)), strict=True) for page in pages]
    assert [names(page) for page in pages] == expected
    assert [re.findall(r"score (-?\d\.\d\d)", page) for page in pages] == scores
    assert 1 < most <= space.AT_ONCE


def test_a_visitor_has_one_query_at_a_time_and_holds_up_nobody_else(url, recommender, monkeypatch):
    begun, go_on, embed = threading.Event(), threading.Event(), recommender.make_query

    def slow(video, text):
        if text == "slow":
            begun.set()
            assert go_on.wait(30)
        return embed(video, text)

    monkeypatch.setattr(recommender, "make_query", slow)
    one, other = (Client(url, verbose=False, analytics_enabled=False) for _ in range(2))
    first = recommend(one, None, "slow", 3, call="submit")
    assert begun.wait(30)
    with pytest.raises(AppError, match="still running"):
        recommend(one, None, TEXT, 3)
    assert names(recommend(other, None, TEXT, 3))
    go_on.set()
    assert names(first.result())


def test_a_query_beyond_the_limits_is_refused_on_the_page(folder, recommender, monkeypatch):
    limits = space.limits_of({"MAX_SECONDS": "3", "MAX_CHARACTERS": "5"})
    assert (limits.seconds, limits.characters, limits.video_pixels) == (3, 5, 2e10)
    with pytest.raises(ViMLError, match="MAX_SECONDS='ten': give a number, such as 600"):
        space.limits_of({"MAX_SECONDS": "ten"})
    monkeypatch.setattr(recommender, "limits", limits)
    app = space.build_app(recommender, folder / "music")
    page = next(fn.fn for fn in app.fns.values() if fn.api_name == "recommend")
    request = gr.Request(session_hash="a")
    for query, said in (
        ((str(folder / "query.mp4"), ""), "a video of more than 3 seconds"),
        ((None, TEXT), "a text of more than 5 characters"),
    ):
        with pytest.raises(gr.Error, match=said):
            page(*query, 5, [], "", "", 0, request)


def test_started_without_a_model_the_page_says_why(folder, recommender, monkeypatch, capsys, tmp_path):
    launched = []
    monkeypatch.setattr(gr.Blocks, "launch", lambda app, **options: launched.append((app, options)))
    recommender.index.save(tmp_path / "index")
    shutil.copytree(folder / "music", tmp_path / "music", symlinks=True)
    monkeypatch.setenv("MUSIC", str(tmp_path / "music"))
    for settings, said in (
        ({"INDEX": tmp_path / "none"}, "not an index"),
        ({"INDEX": tmp_path / "index", "MODEL": "/no/model<b>"}, "/no/model<b>: no such model folder"),
    ):
        for name, value in settings.items():
            monkeypatch.setenv(name, str(value))
        space.main()
        app, options = launched.pop()
        notice = html.unescape(json.dumps(app.config))
        assert said in notice
        assert "<b>" not in json.dumps(app.config)
        lines = capsys.readouterr().err.splitlines()
        assert [line for line in lines if line.startswith("error: ") and said in line] == lines
        assert options["allowed_paths"] == [str(tmp_path / "music")]


def test_started_with_all_it_needs(folder, recommender, monkeypatch, tmp_path):
    launched = []
    monkeypatch.setattr(gr.Blocks, "launch", lambda app, **options: launched.append((app, options)))
    recommender.encoder.model.save_pretrained(tmp_path / "model")
    recommender.encoder.processor.save_pretrained(tmp_path / "model")
    recommender.index.save(tmp_path / "index")
    (tmp_path / "examples").mkdir()
    shutil.copy(folder / "query.mp4", tmp_path / "examples")
    rows = [{"video": "query.mp4", "text": f"text {number}"} for number in range(5)]
    (tmp_path / "examples/manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, value in (("MODEL", "model"), ("INDEX", "index"), ("EXAMPLES", "examples")):
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("MUSIC", str(folder / "music"))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setattr(space, "usable_cores", lambda: 6)
    set_threads, built, build = [], [], space.build_app
    monkeypatch.setattr(space.torch, "set_num_threads", set_threads.append)
    monkeypatch.setattr(
        space, "build_app", lambda recommender, *rest: built.append(recommender) or build(recommender, *rest)
    )
    space.main()
    assert (set_threads[0], built[0].encoder.threads) == (3, 3)  # of six cores, for each of two queries
    page = json.dumps(launched.pop()[0].config, default=str)
    assert [f"text {number}" in page for number in range(5)] == [False, False, True, True, True]

    for line, said in (("{", "not lines of"), ('{"video": "gone.mp4", "text": ""}', r"gone\.mp4, which is not there")):
        (tmp_path / "examples/manifest.jsonl").write_text(line)
        with pytest.raises(ViMLError, match=said):
            space.read_examples(tmp_path / "examples")
    with pytest.raises(ViMLError, match="give the folder of the indexed music files as MUSIC"):
        space.build_app(recommender, tmp_path / "none")


def test_the_head_of_the_readme_is_what_a_space_needs():
    head = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert (head["sdk"], head["license"]) == ("gradio", "apache-2.0")
    assert (SPACE / head["app_file"]).is_file()
    assert head["sdk_version"].split(".")[0] == gr.__version__.split(".")[0]
    assert len(head["short_description"]) <= 60  # more is refused
    assert head["title"] == space.TITLE
    assert head["models"]
    assert "viml-hf" in (SPACE / "requirements.txt").read_text().splitlines()


@pytest.fixture
def browser(tmp_path):
    """A real browser without a window, of a desktop's size."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="driving a browser needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium with chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    switches = (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        "disable-component-update disable-sync window-size=1280,900"
    )
    for switch in (*switches.split(), f"user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_page_load_timeout(30)
    yield browser
    browser.quit()


PLAYERS = """return [...document.querySelectorAll("#tracks audio")].map((player) => ({
  ready: player.readyState, duration: player.duration, time: player.currentTime, error: player.error?.message ?? null,
  label: player.ariaLabel, width: player.getBoundingClientRect().width, right: player.getBoundingClientRect().right,
}))"""


@pytest.mark.slow
def test_in_a_browser(browser, url, recommender, folder, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def find(selector):
        return browser.find_elements(By.CSS_SELECTOR, selector)

    def wait(condition):
        return WebDriverWait(browser, 30, poll_frequency=0.1).until(lambda _: condition())

    def press_button(label):
        button = next(button for button in find("button") if button.text == label)
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()

    def press():
        press_button("Recommend")

    def check_players(found):
        wait(lambda: len(find("#tracks audio")) == len(found))
        wait(lambda: all(player["ready"] > 0 for player in browser.execute_script(PLAYERS)))
        players = browser.execute_script(PLAYERS)
        assert [name.text for name in find("#tracks .name")] == [one.track for one in found]
        assert [player["label"] for player in players] == [one.track for one in found]
        for player, one in zip(players, found, strict=True):
            assert player["error"] is None
            assert player["duration"] == pytest.approx(SECONDS[one.track], abs=0.1)
            assert player["time"] == pytest.approx(one.start, abs=0.1)
            assert player["width"] > 250

    browser.get(url)
    wait(lambda: find("input[type=file]"))
    press()  # nothing is given yet
    wait(lambda: "The query is empty" in find("body")[0].text)

    find("input[type=file]")[0].send_keys(str(folder / "query.mp4"))
    wait(lambda: find("button[aria-label=Clear]"))  # the upload is over
    find("textarea")[0].send_keys(TEXT)
    press()
    check_players(recommender.recommend(str(folder / "query.mp4"), TEXT, k=5))

    find("textarea")[0].clear()
    find("button[aria-label=Clear]")[0].click()
    wait(lambda: find("input[type=file]"))
    find("input[type=file]")[0].send_keys(str(folder / "broken.mp4"))
    wait(lambda: find("button[aria-label=Clear]"))
    press()
    wait(lambda: "broken.mp4: not a video" in find("body")[0].text)
    assert not find("#tracks audio")  # those of the query before are gone
    assert "Traceback" not in browser.page_source
    find("textarea")[0].send_keys(TEXT)
    find("button[aria-label=Clear]")[0].click()
    wait(lambda: find("input[type=file]"))
    press()
    found = recommender.recommend(None, TEXT, k=5)
    assert any(one.start > 0 for one in found)
    check_players(found)

    for width, name in ((1280, "desktop"), (375, "phone")):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        wait(lambda width=width: browser.execute_script("return innerWidth") == width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert all(player["right"] <= width for player in browser.execute_script(PLAYERS))
        picture = tmp_path / f"{name}.png"
        assert browser.save_screenshot(str(picture))
        assert picture.stat().st_size > 10_000

    # The same button starts a track with the video, at its best part, and stops both.
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    wait(lambda: find("input[type=file]"))
    find("input[type=file]")[0].send_keys(str(folder / "query.mp4"))
    wait(lambda: find("#query video"))
    press()
    wait(lambda: find(".together"))
    state = "const v = document.querySelector('#query video'), a = document.querySelectorAll('#tracks audio');"
    playing = state + "return [!v.paused, ...[...a].map(one => !one.paused)]"
    for button, expected in ((0, [True, True, False, False]), (1, [True, False, True, False]), (1, [False] * 4)):
        find(".together")[button].click()
        wait(lambda expected=expected: browser.execute_script(playing) == expected)
    found = recommender.recommend(str(folder / "query.mp4"), TEXT, k=5)
    times = browser.execute_script(state + "return [...a].map(one => one.currentTime)")
    assert found[1].start <= times[1] < found[1].start + 5
    # The preview of a track is played and can be had as a file, as the track itself.
    press_button("Make the preview")
    wait(lambda: find("#preview video"))
    wait(lambda: browser.execute_script("return document.querySelector('#preview video').readyState") > 0)
    seconds = browser.execute_script("return document.querySelector('#preview video').duration")
    assert seconds == pytest.approx(6, abs=0.1)
    assert find("#preview a[download]")
    downloads = [link.get_attribute("href") for link in find("#tracks a[download]")]
    assert [status(one) for one in downloads] == [200] * 3
    # An example clears the tracks of the query before, and its preview.
    browser.execute_script("arguments[0].click()", find("#examples tbody tr")[0])
    wait(lambda: not find("#tracks audio") and not find("#preview video"))

    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [address for address in asked if address.startswith(("http", "ws")) and not address.startswith(url)] == []


def test_by_keyboard_alone(browser, url, recommender, folder):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def wait(condition):
        return WebDriverWait(browser, 30, poll_frequency=0.1).until(lambda _: condition())

    def found(selector):
        return browser.find_elements(By.CSS_SELECTOR, selector)

    def keys(*given):
        ActionChains(browser).send_keys(*given).perform()

    def focused():
        script = (
            "const e = document.activeElement; return [e.innerText, e.placeholder, e.ariaLabel, e.className].join(' ')"
        )
        return browser.execute_script(script)

    def tab_to(word, most=60):
        for _ in range(most):
            keys(Keys.TAB)
            if word in focused():
                shown = "return document.activeElement.matches(':focus-visible')"
                assert browser.execute_script(shown), f"the focus on {word} is not to be seen"
                return
        raise AssertionError(f"{word} is not reached; the last was {focused()}")

    browser.get(url)
    wait(lambda: found("input[type=file]"))
    found("input[type=file]")[0].send_keys(str(folder / "query.mp4"))  # the system's own dialogue is not ours
    wait(lambda: found("#query video"))
    tab_to("upbeat pop")
    keys(TEXT)
    tab_to("More wishes")
    keys(Keys.ENTER)
    wait(lambda: any(one.is_displayed() for one in found("input[placeholder='vocals, drums'], textarea")))
    tab_to("vocals, drums")
    keys("drums")
    tab_to("duration < 120")
    keys("duration < 60")
    tab_to("Recommend")
    keys(Keys.ENTER)
    wait(lambda: found("#tracks audio"))
    video = str(folder / "query.mp4")
    expected = recommender.recommend(video, TEXT, avoid="drums", where="duration < 60", k=5)
    assert [one.text for one in found("#tracks .name")] == [one.track for one in expected]
    tab_to("together")
    keys(Keys.SPACE)
    playing = "return [...document.querySelectorAll('#tracks audio')].map(one => !one.paused)"
    wait(lambda: browser.execute_script(playing) == [True, False])
    tab_to("download")
    tab_to("Make the preview")
    keys(Keys.ENTER)
    wait(lambda: found("#preview video"))
