"""`viml verify`: check a store against its checksums."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `viml verify`."""
    parser.add_argument("store", metavar="STORE", help="folder of a store")


def run(options: argparse.Namespace) -> None:
    """Read every shard; a damaged file is an error that names it."""
    from viml_hf.features.store import Store

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
