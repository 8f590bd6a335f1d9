"""Build sdist and wheel into a folder, the wheel out of the sdist, and look at what they hold: package.py FOLDER."""

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path


def build(source: Path, kind: str, out: Path) -> Path:
    """Build an sdist or a wheel of a folder and return it."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)], cwd=source, check=True)
    return max(out.glob("*.whl" if kind == "wheel" else "*.tar.gz"), key=lambda path: path.stat().st_mtime)


def main(out: Path) -> None:
    """Build both and check them."""
    home = Path(__file__).parents[1]
    out.mkdir(parents=True, exist_ok=True)
    sdist = build(home, "sdist", out)
    with tempfile.TemporaryDirectory() as folder, tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
        (inside,) = Path(folder).iterdir()
        wanted = ("pyproject.toml", "tests/conftest.py", "CITATION.cff", "LICENSE")
        lost = [name for name in wanted if not (inside / name).exists()]
        assert not lost, f"the sdist lacks {lost}"
        wheel = build(inside, "wheel", out)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0].split("-")[0] for name in names}
    assert tops == {"mrsxr"}, f"the wheel holds {sorted(tops)}"
    files = [path for path in (home / "mrsxr").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    lost = [str(path) for path in files if path.relative_to(home).as_posix() not in names]
    assert not lost, f"the wheel lacks {lost}"
    for path in (sdist, wheel):
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
