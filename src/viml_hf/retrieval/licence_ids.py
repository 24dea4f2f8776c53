"""Licences by a short name, however a source spells them."""

import re

_URL = re.compile(r"creativecommons\.org/licen[sc]es/([a-z+-]+)(?:/(\d(?:\.\d)?))?")
_WORDS = {"noncommercial": "nc", "noderivatives": "nd", "noderivs": "nd", "sharealike": "sa", "attribution": "by"}
_SPLIT_WORDS = re.compile(r"\(.*?\)|(non|no|share)[\s-](?=commercial|deriv|alike)")
_PARTS = ("by", "nc", "nd", "sa")


def licence_id(text: str) -> str:
    """The short name of a licence, such as CC-BY-NC-4.0, CC0 or PDM; a text that names no licence known here as it is.

    A port to a country's law is left out.

    Example:
        >>> licence_id("https://creativecommons.org/licenses/by-nc/3.0/us/"), licence_id("CC BY 4.0"), licence_id("CC0")
        ('CC-BY-NC-3.0', 'CC-BY-4.0', 'CC0')
        >>> licence_id("Attribution-NonCommercial-ShareAlike 3.0 International"), licence_id(" all rights reserved")
        ('CC-BY-NC-SA-3.0', 'all rights reserved')
    """
    known = " ".join(text.split())
    lower = known.lower()
    if "publicdomain/zero" in lower or re.match(r"cc[\s_-]?0\b|cc[\s_-]?zero\b|creative commons zero\b", lower):
        return "CC0"
    if "publicdomain/mark" in lower or lower in ("pdm", "public domain mark", "public domain mark 1.0", "pdm-1.0"):
        return "PDM"
    if found := _URL.search(lower):
        words, version = re.findall("[a-z]+", found[1]), found[2]
    else:
        # (cc | creative commons)? parts version? anything: "CC BY-NC 4.0 International", "Attribution-ShareAlike 3.0".
        tokens = re.findall(r"[a-z]+|\d+(?:\.\d+)?", _SPLIT_WORDS.sub(lambda found: found[1] or "", lower))
        while tokens and tokens[0] in ("cc", "creative", "commons"):
            del tokens[0]
        number = next((place for place, token in enumerate(tokens) if token[0].isdigit()), None)
        words = [token for token in tokens[:number] if token not in ("license", "licence")]
        version = None if number is None else tokens[number]
    words = [_WORDS.get(word, word) for word in words]
    if words[:1] != ["by"] or not set(words) <= set(_PARTS):
        return known
    return "-".join(["CC", *(part.upper() for part in _PARTS if part in words), *([version] if version else [])])


def licence_family(short: str) -> str:
    """A short name without its version.

    Example:
        >>> licence_family("CC-BY-4.0"), licence_family("CC0"), licence_family("GPL-3.0")
        ('CC-BY', 'CC0', 'GPL')
    """
    return re.sub(r"-\d+(\.\d+)*$", "", short)


def licence_url(short: str) -> str | None:
    """The address of a licence of Creative Commons by its short name; `None` without a version, and of others.

    Example:
        >>> licence_url("CC-BY-NC-3.0"), licence_url("CC0"), licence_url("CC-BY")
        ('https://creativecommons.org/licenses/by-nc/3.0/', 'https://creativecommons.org/publicdomain/zero/1.0/', None)
    """
    if short == "CC0":
        return "https://creativecommons.org/publicdomain/zero/1.0/"
    found = re.fullmatch(r"CC-(BY[A-Z-]*)-(\d+\.\d+)", short)
    return found and f"https://creativecommons.org/licenses/{found[1].lower()}/{found[2]}/"
