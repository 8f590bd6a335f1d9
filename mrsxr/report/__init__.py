"""What came of a reduction, for people: one page on a folder of products, one picture of a file."""

from .page import write_report
from .show import draw_file, open_product

__all__ = ["write_report", "draw_file", "open_product"]
