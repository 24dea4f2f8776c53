"""`viml publish`: put a model on the Hub, with its card, processor and results, in one commit."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from viml_hf.hub.card_facts import OwnerFacts
    from viml_hf.hub.publishing import Publication


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder of a saved model, or an encoder as for `viml index`")
    add("repo_id", metavar="REPO_ID", help="OWNER/NAME on the Hub; made if there is none")
    add("--with-code", action="store_true", help="so that it loads where viml_hf is not installed")
    add("--private", action="store_true", help="make the repo private; refused where it is public")
    add("--dry-run", action="store_true", help="show what would be uploaded, and the card; no upload")
    add("--accept-licences", action="store_true", help="publish encoders under non-commercial licences")
    add("--licence", help="of the model, as the Hub spells it (default: follows from the encoders')")
    add("--dataset", action="append", default=[], metavar="HUB_ID", help="trained on; repeatable")
    add("--language", action="append", default=[], metavar="CODE", help="of its texts; repeatable")
    add("--data", metavar="TEXT", help="for the card: what it was trained on, in a sentence")
    add("--message", help="of the commit")


def run(options: argparse.Namespace) -> None:
    """Show what is to be uploaded, and upload it."""
    from viml_hf.hub.card_facts import OwnerFacts
    from viml_hf.retrieval.model_loading import saved_folder

    owner = OwnerFacts(options.licence, tuple(options.dataset), tuple(options.language), options.data)
    with saved_folder(options.model) as folder:
        _publish(folder, owner, options)


def _publish(folder: Path, owner: "OwnerFacts", options: argparse.Namespace) -> None:
    from viml_hf.hub.publishing import plan_publication, publish

    publication = plan_publication(folder, options.repo_id, with_code=options.with_code, owner=owner)
    print(_summary(publication, private=options.private))
    if options.dry_run:
        print(f"\nREADME.md:\n\n{publication.card}\nnothing was uploaded (--dry-run)")
        return
    accepted = options.accept_licences or (bool(publication.non_commercial) and _asked(publication))
    commit = publish(publication, private=options.private or None, accept_licences=accepted, message=options.message)
    print(f"\npublished: {commit.commit_url}")


def _summary(publication: "Publication", *, private: bool) -> str:
    """Files with their sizes, and the encoders with their licences."""
    sizes = publication.sizes
    width = max(map(len, sizes))
    lines = [f"{publication.repo_id}{' (private)' if private else ''}, in one commit:"]
    lines += [f"  {name:{width}}  {size:>13,} bytes" for name, size in sizes.items()]
    if publication.has_own_card:
        lines.append("README.md is the one in the folder")
    if publication.left_out:
        lines.append(f"left out: {', '.join(publication.left_out)}")
    follows = " (it follows from the encoders; --licence states another)"
    stated = publication.licence and publication.licence + ("" if publication.facts.owner.licence else follows)
    lines.append(f"licence: {stated or 'none is stated; --licence states one'}")
    if not publication.facts.whole:
        return "\n".join([*lines, "heads alone: without encoders and processor"])
    lines.append("encoders inside, with their licences:")
    for modality, encoder in publication.facts.encoders.items():
        licence = encoder.licence or "unknown: look it up before you publish"
        warning = ", not for commercial use" if encoder.non_commercial else ""
        lines.append(f"  {modality}: {encoder.name or encoder.model_type} ({licence}{warning})")
    return "\n".join(lines)


def _asked(publication: "Publication") -> bool:
    if not sys.stdin.isatty():
        return False
    print(f"\nNot for commercial use: {', '.join(publication.non_commercial)}.")
    return input("May you publish these weights, and do you keep to their licences? [y/N] ").strip().lower() == "y"
