"""``python -m mrsxr`` is the command ``mrsxr``, where that is not on the path."""

from .cli import main

main(prog_name="python -m mrsxr")
