"""The code keeps to the plan of docs/design.md: what may import what, no circles, no module that is too long."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "viml_hf"
LONGEST = 450  # lines of a module
# The door: it names everything and is imported by nothing.
DOOR = "__init__"


def modules() -> dict[str, Path]:
    """Every file of the package by its dotted name below `viml_hf`; a package goes by its own name."""
    names = {path: path.relative_to(SOURCE).with_suffix("").parts for path in SOURCE.rglob("*.py")}
    return {".".join(part for part in parts if part != "__init__") or DOOR: path for path, parts in names.items()}


def imported_by(module: str, source: str, known: set[str]) -> Iterator[str]:
    """The files of this package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = ["viml_hf", *module.split(".")][: -node.level] if node.level else []
            base = ".".join([*here, *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            package, _, inside = target.partition(".")
            if package == "viml_hf":
                # `from x.y import z`: the file x.y.z if there is one, else x.y; a public name comes through the door.
                yield inside if inside in known else inside.rpartition(".")[0] or DOOR


def arrows() -> dict[str, set[str]]:
    """For each file, the files that it imports."""
    files = modules()
    return {
        name: set(imported_by(name, path.read_text(encoding="utf-8"), set(files))) - {name}
        for name, path in files.items()
    }


def plan() -> list[str]:
    """The rooms of docs/design.md, ground floor first."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    block = re.search(r"## The plan.*?```\n(.*?)```", text, flags=re.DOTALL).group(1)
    return [line.split()[0] for line in block.splitlines()]


def against_the_plan(found: dict[str, set[str]], rooms: list[str]) -> list[str]:
    floor = {room: number for number, room in enumerate([*rooms, DOOR])}
    return [
        f"{module} imports {target}"
        for module, targets in sorted(found.items())
        for target in sorted(targets)
        if floor[target.split(".")[0]] > floor[module.split(".")[0]]
    ]


def circle(found: dict[str, set[str]]) -> list[str]:
    """Files of which each imports the next, and the last the first; empty where there is none."""
    done: set[str] = set()

    def search(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        for target in sorted(found.get(module, ())):
            if way := search(target, [*path, module]):
                return way
        done.add(module)
        return []

    return next((way for module in sorted(found) if (way := search(module, []))), [])


def test_the_plan_names_every_room():
    assert sorted(plan()) == sorted({module.split(".")[0] for module in modules()} - {DOOR})


def test_no_import_runs_against_the_plan():
    assert against_the_plan(arrows(), plan()) == []


def test_no_circle_of_files():
    assert circle(arrows()) == []


def test_networks_import_their_siblings_only():
    outside = {
        (module, target)
        for module, targets in arrows().items()
        for target in targets
        if module.startswith("modeling.") and not target.startswith("modeling.")
    }
    assert not outside


def test_no_module_is_too_long():
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in modules().items()}
    assert {module: length for module, length in lines.items() if length > LONGEST} == {}


def test_file_names_are_unique():
    """Files travel to one flat folder of a Hub repo, and a stranger looks for them by name; commands name theirs."""
    names = [module.rpartition(".")[2] for module in modules() if "." in module and not module.startswith("cli.")]
    assert sorted(names) == sorted(set(names))


def test_the_checks_notice_what_is_wrong():
    """An import inside a function counts, one of a whole package too; circles of three are found."""
    known = {"a", "a.low", "b", "b.high", DOOR}
    source = "def f():\n    from viml_hf.b import high\n    import viml_hf\n    from .low import x\n"
    assert set(imported_by("a.other", source, known)) == {"b.high", DOOR, "a.low"}
    assert against_the_plan({"a.low": {"b.high"}, "b.high": {"a.low"}}, ["a", "b"]) == ["a.low imports b.high"]
    assert circle({"x": {"y"}, "y": {"z"}, "z": {"x"}}) == ["x", "y", "z"]
    assert circle({"x": {"y", "z"}, "y": {"z"}, "z": set()}) == []
