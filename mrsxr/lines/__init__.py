"""spectrum, cube -> lines: the line list, fits and maps."""

from .linelist import in_range, line_list

__all__ = ["line_list", "in_range"]
