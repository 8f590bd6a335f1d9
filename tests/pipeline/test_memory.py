"""What was freed goes back to the system."""

import ctypes

import pytest

from mrsxr.pipeline import memory


def test_the_c_library_is_asked_where_it_can(monkeypatch):
    class Library:
        @staticmethod
        def malloc_trim(pad):
            asked.append(pad)
            return 1

    asked = []
    monkeypatch.setattr(memory, "_trim", lambda: Library.malloc_trim)
    assert memory.give_back()
    assert asked == [0]


@pytest.mark.parametrize("failure", [OSError, TypeError, AttributeError])
def test_nothing_happens_without_glibc(monkeypatch, failure):
    def refuse(name):
        raise failure(name)

    memory._trim.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert memory.give_back() is False
    memory._trim.cache_clear()
