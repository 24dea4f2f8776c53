"""`viml verify`: check a store or an index against its checksums."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="folder of a store or an index")


def run(options: argparse.Namespace) -> None:
    """Read every shard; a damaged file is an error that names it."""
    from viml_hf.features.store import Store
    from viml_hf.retrieval.index_folder import INDEX_FILE, verify_index

    if (Path(options.store) / INDEX_FILE).is_file():
        verify_index(Path(options.store))
        print(f"{options.store}: an index, all as it was written")
        return
    store = Store(options.store)
    store.verify()
    store.check_finite()
    spec = store.spec
    failed = sum(not item.has_features for item in store.items)
    without = f" and {failed} without features" if failed else ""
    print(
        f"{options.store}: {len(store.items) - failed} items{without}, {len(store.checksums)} shards, all as they were "
        "written"
    )
    for modality, name in spec.encoders.items():
        facts = [f"width {spec.widths[modality]}", spec.dtypes.get(modality), spec.licences.get(modality)]
        print(f"{modality}: {name} ({', '.join(fact for fact in facts if fact)})")
