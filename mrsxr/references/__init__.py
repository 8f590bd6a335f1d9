"""Reference files: choose them for an exposure, read them, lay them out as a CRDS cache."""

from .crds_cache import build_crds_cache
from .find import References
from .headers import KINDS, ReferenceFacts, read_facts
from .readers import read_reference

__all__ = ["References", "read_reference", "build_crds_cache", "KINDS", "ReferenceFacts", "read_facts"]
