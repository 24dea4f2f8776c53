"""The command `viml`. It stands outside the package, so that arguments are parsed before torch is loaded."""

parsing = False  # while it is true, `import viml_hf` registers nothing yet


def main() -> int:
    """Run the command line; see `viml_hf.cli.main`."""
    global parsing
    parsing = True
    from viml_hf.cli.main import main as run

    return run()
