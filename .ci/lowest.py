"""Print the lowest versions that pyproject.toml allows as constraints for pip: every ``>=`` made a ``==``."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for requirement in dict.fromkeys([*project["dependencies"], *extras["zarr"], *extras["test"]]):
    found = re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement)
    if found is None:
        raise SystemExit(f"{requirement}: expected name>=version, so that the lowest version can be tested")
    print("==".join(found.groups()))
