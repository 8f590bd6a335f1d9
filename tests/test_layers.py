"""Who may import whom: facts < model < sources < steps < use; step rooms never import each other."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import mrsxr

ROOT = Path(mrsxr.__file__).parent
LAYERS = [
    {
        "_version",
        "mrs",
        "dq",
        "units",
        "errors",
        "deprecation",
        "notes",
        "threads",
        "schedule",
        "limits",
        "compiled",
        "robust",
    },
    {
        "arguments",
        "attributes",
        "schema",
        "inputs",
        "scores",
        "step",
        "tree",
        "chunks",
        "blocks",
        "folding",
        "convert",
        "spaxels",
        "sums",
        "_median_kernels",
        "_clip_kernels",
        "_solve_kernels",
    },
    {"io", "references", "geometry", "fringes", "traces", "simulate"},
    {"rate", "cal", "cube", "spectrum", "lines"},
    {"pipeline", "plot", "report", "explorer", "demo", "warmup", "accessor", "console", "cli_products"}
    | {"cli", "__main__"},
]
STEP_ROOMS = LAYERS[3]
KERNEL_IMPORTS = {"numpy", "math", "mrsxr.compiled", "__future__", "collections.abc", "typing"}


def modules():
    return sorted(p for p in ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def layer_of(room: str) -> int:
    for number, rooms in enumerate(LAYERS):
        if room in rooms:
            return number
    raise AssertionError(f"{room} stands in no layer: add it to LAYERS or move it")


def statements_of(node):
    """Yield the statements in a module, a function, a branch ..., without a look into expressions."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for one in getattr(node, name, ()):
            yield one
            yield from statements_of(one)


@cache
def imports_of(path: Path) -> list[tuple[str, int]]:
    """Return (dotted name of a module of the package or of another package, line) of all imports."""
    return list(find_imports(path))


def find_imports(path: Path):
    package = ("mrsxr", *path.relative_to(ROOT).parts[:-1])
    for node in statements_of(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                module = ".".join((*base, *((node.module or "").split(".") if node.module else ())))
            else:
                module = node.module or ""
            if module == "mrsxr" or (node.level and node.module is None):
                for alias in node.names:
                    yield f"{module}.{alias.name}", node.lineno
            else:
                yield module, node.lineno


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path):
    room = room_of(path)
    if room == "__init__":
        return
    own = layer_of(room)
    for name, line in imports_of(path):
        parts = name.split(".")
        if parts[0] != "mrsxr" or len(parts) < 2:
            continue
        other = parts[1]
        if other == room or (not (ROOT / other).exists() and not (ROOT / f"{other}.py").exists()):
            continue
        assert layer_of(other) <= own, f"{path.name}:{line} imports {name} from a higher layer"
        if room in STEP_ROOMS:
            assert other not in STEP_ROOMS, f"{path.name}:{line}: step rooms do not import each other ({name})"
        if room == "simulate":
            assert other not in STEP_ROOMS, f"{path.name}:{line}: the simulator knows no steps ({name})"


def test_no_module_is_longer_than_500_lines():
    lines = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in modules()}
    assert {name: number for name, number in lines.items() if number > 500} == {}


@pytest.mark.parametrize("path", [p for p in modules() if p.stem.endswith("_kernels")], ids=lambda p: p.stem)
def test_kernels_import_numpy_and_kernels_only(path):
    """... and the key of compiled code holds the sources of all kernel modules that are imported."""
    from mrsxr.compiled import imported_kernels

    kernels = {name for name, _ in imports_of(path) if name.startswith("mrsxr.") and name.endswith("_kernels")}
    for name, line in imports_of(path):
        assert name in KERNEL_IMPORTS | kernels, f"{path.name}:{line} imports {name}"
    module = ".".join(("mrsxr", *path.relative_to(ROOT).with_suffix("").parts))
    assert set(imported_kernels(module, path.read_bytes())) == kernels


def test_importing_the_package_compiles_nothing_and_looks_for_no_cycles():
    import subprocess
    import sys

    code = (
        "import gc, sys; looks = []; gc.callbacks.append(lambda _, told: looks.append(told['generation']))\n"
        "from mrsxr import *; print('numba' in sys.modules, 2 in looks, gc.isenabled())"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["False", "False", "True"]  # and no look for cycles through all objects


def test_importing_the_package_imports_no_room():
    import subprocess
    import sys

    heavy = {"numpy", "xarray", "dask", "astropy", "scipy", "mrsxr.cal", "mrsxr.io"}
    code = f"import sys, mrsxr; print(*{heavy}.intersection(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "\n"


def test_no_module_is_hidden_by_a_function_of_its_name():
    """``import mrsxr.simulate as sim`` and ``import mrsxr.cal.wcs`` give modules; ``dir(mx)`` the public names."""
    import importlib
    import pkgutil
    from functools import reduce

    assert set(dir(mrsxr)) == set(mrsxr.__all__)
    assert all(hasattr(mrsxr, name) for name in mrsxr.__all__)
    names = [found.name for found in pkgutil.walk_packages(mrsxr.__path__, "mrsxr.") if "__" not in found.name]
    assert len(names) > 200
    for name in names:
        assert importlib.import_module(name) is reduce(getattr, name.split(".")[1:], mrsxr), name
