"""Kernels that are compiled once on a machine: numba functions whose code all processes of a user share.

The code lies in a folder of the user's cache: ``mrsxr/kernels`` below ``$XDG_CACHE_HOME`` or ``~/.cache`` (on other
platforms where they keep caches), or ``mrsxr`` below ``NUMBA_CACHE_DIR`` where that is set. A kernel module has its own
folder there, named by a digest of its source, of the kernel modules that it imports, and of the versions that compile,
so that no edit meets stale code and checkouts do not disturb each other; folders that nobody used for a month go. A
process that needs what another is just compiling waits for it and loads it.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib.util
import itertools
import os
import pickle
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar

import llvmlite.binding
import numba
import numpy as np
from numba.core import compiler, sigutils, types
from numba.core.caching import NullCache
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import _FunctionCompiler  # type: ignore[attr-defined]
from numba.core.environment import lookup_environment
from numba.core.registry import CPUDispatcher
from numba.core.serialize import dumps
from numba.extending import overload
from numba.misc.appdirs import AppDirs
from numba.np import arrayobj

try:
    import fcntl
except ImportError:  # a platform without it compiles twice now and then
    fcntl = None  # type: ignore[assignment]

_PATIENCE_S = 300.0  # for another process that compiles; it may have been stopped
_UNUSED_DAYS = 30.0
_MOST_TAKEN_IN = 300  # instructions; LLVM takes in what costs less than 275, an instruction costs 5
_VERSIONS = (sys.implementation.cache_tag, numba.__version__, llvmlite.__version__, np.__version__)

P = ParamSpec("P")
R = TypeVar("R")
Array: TypeAlias = np.ndarray  # of kernels: numba knows what it holds
_PLAIN = (types.Number, types.Boolean, types.Literal, types.Array, types.BaseTuple, types.NoneType, types.SliceType)

config: Any = numba.config
_compiled: dict[str, float] = {}


def njit(**options: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """``numba.njit`` for the kernels of this package; what it compiles is kept for all processes.

    A kernel keeps the signature of its function; those that are called from outside kernels have types.
    """
    options.pop("cache", None)
    if config.DISABLE_JIT:
        return lambda function: function

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        kernel: Any = _Kernel(
            function, targetoptions={"nopython": True, "boundscheck": None, "no_cfunc_wrapper": True, **options}
        )
        return kernel

    return decorate


def read_only(*arrays: np.ndarray) -> list[np.ndarray]:
    """Return arrays as kernels take their inputs, contiguous and read-only, whatever they are: one code serves all.

    In the byte order of the machine: numba takes a read-only array in that of FITS files for one in its own.
    """
    views = [np.ascontiguousarray(array, array.dtype.newbyteorder("=")).view() for array in arrays]
    for view in views:
        view.flags.writeable = False
    return views


def compiled_here() -> dict[str, float]:
    """Return what this process compiled itself: seconds by kernel and argument types, those of callees included."""
    return dict(_compiled)


@cache
def cache_folder() -> Path:
    """Return the folder of compiled kernels: below the temporary folder where the user's cache cannot be written."""
    if config.CACHE_DIR:
        folder = Path(config.CACHE_DIR) / "mrsxr"
    else:
        folder = Path(AppDirs("mrsxr", appauthor=False).user_cache_dir) / "kernels"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder = Path(tempfile.gettempdir()) / f"mrsxr-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; set NUMBA_CACHE_DIR to a folder that you can write")
    return folder


def imported_kernels(module: str, source: bytes) -> list[str]:
    """Return the kernel modules that a module imports, read from its source."""
    found = re.findall(rb"^from ([\w.]+_kernels) import", source, re.MULTILINE)
    return [importlib.util.resolve_name(name.decode(), module.rpartition(".")[0]) for name in found]


@cache
def _digest(module: str) -> str:
    """Return the digest of a module's source, of the kernel modules that it imports, and of what compiles them."""
    source = Path(str(importlib.import_module(module).__file__)).read_bytes()
    parts = [source, *(_digest(name).encode() for name in imported_kernels(module, source)), repr(_VERSIONS).encode()]
    return hashlib.sha256(b"\0".join((*parts, Path(__file__).read_bytes()))).hexdigest()[:16]


@cache
def _module_folder(module: str) -> Path:
    """Return a kernel module's folder, freshly dated; making it drops those of its other states that nobody uses."""
    stem = module.removeprefix("mrsxr.")
    folder = cache_folder() / f"{stem}-{_digest(module)}"
    with contextlib.suppress(OSError):
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            for old in folder.parent.glob(f"{stem}-*"):
                if time.time() - old.stat().st_mtime > _UNUSED_DAYS * 86400:
                    shutil.rmtree(old, ignore_errors=True)
        os.utime(folder)
    return folder


class _Kernel(CPUDispatcher):
    """A numba function with the shared cache; where kernels alone call it, it is a part of theirs and no more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cache = _SharedCache(self.py_func)
        self._called_by_kernels = False
        self._parts: list[Any] = []

    def compile(self, sig: Any) -> Any:
        """Compile for these types, or load; what others wait for is let go even where compilation fails."""
        with global_compiler_lock, _parts_stay_parts(self.targetctx), _no_collection():
            part, self._called_by_kernels = self._called_by_kernels, False
            args = tuple(sigutils.normalize_signature(sig)[0])
            if not part and args in self.overloads and _is_part(self.overloads[args]):
                self._parts.append(self.overloads.pop(args))  # it lives on where it was taken in
            self.targetoptions["no_cpython_wrapper"] = self._cache.part = part
            try:
                return super().compile(sig)
            finally:
                self._cache.release(sig)

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """Compile for a kernel that calls this one; a number that stands in its text is a number like others."""
        args, kws = [types.unliteral(a) for a in args], {name: types.unliteral(a) for name, a in kws.items()}
        with global_compiler_lock:
            self._called_by_kernels = True
            try:
                return super().get_call_template(args, kws)
            finally:
                self._called_by_kernels = False

    def add_overload(self, cres: Any) -> None:
        """Keep what was compiled; Python finds no part."""
        if _is_part(cres):
            self.overloads[tuple(cres.signature.args)] = cres
        else:
            super().add_overload(cres)


class _Library(JITCodeLibrary):
    """Code of LLVM that becomes machine code where Python calls it; a part does not.

    What is too large to be taken into its callers, by the name of its function, is optimized by itself alone.
    """

    _part = False

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(codegen, name)
        self._beside: dict[str, Any] = {}

    def add_linking_library(self, library: Any) -> None:
        """Link a part that may be taken in, and keep a large one for later."""
        library._ensure_finalized()
        if _is_library_of_part(library):
            self._beside |= library._beside
            self._beside |= dict.fromkeys(library._large, library)
            if library._large:
                return
        super().add_linking_library(library)

    @cached_property
    def _large(self) -> list[str]:
        """The names of the functions of a part that LLVM takes in nowhere."""
        whole = [f for f in self._final_module.functions if not f.is_declaration and f.linkage.name == "external"]
        small = [b"alwaysinline" in b" ".join(f.attributes) or _is_small(f) for f in whole]
        return [] if any(small) else [f.name for f in whole]

    def _optimize_final_module(self) -> None:
        super()._optimize_final_module()
        if not self._is_part():
            self._take_beside()

    def _take_beside(self) -> None:
        """Link the large parts that are called."""
        while names := [f.name for f in self._final_module.functions if f.is_declaration and f.name in self._beside]:
            for name in names:
                self._final_module.link_in(self._beside[name]._get_module_for_linking(), preserve=True)

    def _is_part(self) -> bool:
        if getattr(self, "_compiled_object", None) is not None:
            return False
        return not any(f.name.startswith("_ZN7cpython") for f in self._final_module.functions if not f.is_declaration)

    @property
    def codegen(self) -> Any:
        return _NoEnvironment if self._part else self._codegen

    def _finalize_final_module(self) -> None:
        self._part = self._is_part()
        if self._part:
            self._finalize_dynamic_globals()
            self._finalized = True
        else:
            self._emit()

    def _emit(self) -> None:
        """Make machine code, and tell it the environments of the parts in it."""
        self._final_module = _without_masked_stores(self._final_module)
        super()._finalize_final_module()
        codegen: Any = self._codegen
        self._environments = []  # they live as long as the code
        for name in (v.name for v in self._final_module.global_variables if v.name.startswith("_ZN08NumbaEnv")):
            environment = lookup_environment(name)
            if environment is not None:
                codegen.set_env(name, environment)
                self._environments.append(environment)

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        if self._part:
            if name not in (f.name for f in self.get_defined_functions()):
                return 0
            self._part = False
            self._take_beside()
            self._emit()
        return super().get_pointer_to_function(name)

    def serialize_using_object_code(self) -> Any:
        if not self._part:
            return super().serialize_using_object_code()
        beside = {name: library.serialize_using_bitcode() for name, library in self._beside.items()}
        return self.name, "part", (self.serialize_using_bitcode(), beside)

    @classmethod
    def _unserialize(cls, codegen: Any, state: Any) -> Any:
        if state[1] != "part":
            return super()._unserialize(codegen, state)
        own, beside = state[2]
        part = super()._unserialize(codegen, own)
        part._beside = {name: super(_Library, cls)._unserialize(codegen, one) for name, one in beside.items()}
        return part


def _without_masked_stores(module: Any) -> Any:
    """Return a module of LLVM in which a choice between a number of an array and another is stored as a whole.

    From LLVM 20 on ``a[k] = b if b < a[k] else a[k]`` is a masked store, which takes processors of AMD twenty cycles,
    half the time of a search for jumps. A ``freeze``, which does nothing, hides the choice from the store.
    """
    text = str(module)
    loaded = set(re.findall(r"^  (%\S+) = load <", text, re.MULTILINE))
    choices = re.findall(r"^  (%\S+) = select <[^,]+, (<.+)$", text, re.MULTILINE)
    chosen = {name for name, either in choices if not loaded.isdisjoint(re.findall(r"%[^,\s]+", either))}

    def hidden(store: re.Match[str]) -> str:
        kind, name = store.groups()
        whole = f"%whole.{store.start()}"
        return f"  {whole} = freeze {kind} {name}\n  store {kind} {whole}," if name in chosen else store[0]

    changed = re.sub(r"^  store (<[^>]+>) (%[^,\s]+),", hidden, text, flags=re.MULTILINE)
    return module if changed == text else llvmlite.binding.parse_assembly(changed)


class _NoEnvironment:
    """Where the environment of a part is set: nowhere, see :meth:`_Library._emit`."""

    @staticmethod
    def set_env(name: str, environment: Any) -> None:
        """Do nothing."""


def _is_part(cres: Any) -> bool:
    return _is_library_of_part(cres.library)


def _is_library_of_part(library: Any) -> bool:
    return getattr(library, "_part", False)


def _is_small(function: Any) -> bool:
    """Return True where LLVM may take a function into its callers."""
    instructions = (one for block in function.blocks for one in block.instructions)
    return sum(1 for _ in itertools.islice(instructions, _MOST_TAKEN_IN + 1)) <= _MOST_TAKEN_IN


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Let Python look for no cycles while a kernel is compiled: what numba makes mostly stays."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextlib.contextmanager
def _parts_stay_parts(context: Any) -> Iterator[None]:
    """Let numba compile a kernel in our way: libraries are :class:`_Library`, and nothing is made that nobody calls."""
    ours = (
        (context.codegen(), "_library_class", _Library),
        (arrayobj, "raise_with_shape_context", _refuse_shape),  # none before numba 0.62
        (_FunctionCompiler, "_customize_flags", _without_wrapper),
        (types.BaseFunction, "get_call_type", _call_type),
    )
    with contextlib.ExitStack() as stack:
        for where, name, value in ours:
            stack.callback(setattr, where, name, getattr(where, name, None))
            setattr(where, name, value)
        yield


def _without_wrapper(_: Any, flags: Any) -> Any:
    """Let numba's own functions, as of ``np.empty``, have no wrapper for C."""
    flags.no_cfunc_wrapper = True
    return flags


_find_call_type: Any = types.BaseFunction.get_call_type
_call_types: dict[int, tuple[Any, dict[Any, Any]]] = {}


def _call_type(function: Any, context: Any, args: Any, kws: Any) -> Any:
    """Return what an operation gives for these types; numba tries dozens of ways, each time, this once a process.

    What numba compiles from Python code depends on the options of who calls it, and is looked for each time.
    """
    _, known = _call_types.setdefault(id(function), (function, {}))  # held: an identity is not given again
    args = tuple(args)
    found = None if kws else known.get(args)
    if found is None:
        found = _find_call_type(function, context, args, kws)
        way, made = function._impl_keys[found.args], [getattr(t, "_compiled_overloads", {}) for t in function.templates]
        if not kws and all(isinstance(a, _PLAIN) for a in args) and not any(way is m.get(found.args) for m in made):
            known[args] = found
    return found


def _refuse_shape(source: Any, target: Any) -> None:
    """Refuse what does not fit into a slice, as numba's own function does, whose text takes a second to compile."""


@overload(_refuse_shape)
def _refuse_shape_in_a_kernel(source: Any, target: Any) -> Callable[..., None]:
    def refuse(source: Any, target: Any) -> None:
        raise ValueError("cannot assign slice from input of different size")

    return refuse


class _SharedCache(NullCache):
    """The compiled code of one function: a file for each signature, and a lock beside it while it is compiled."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = function.__qualname__
        self._folder = _module_folder(function.__module__)
        self._waiting: dict[str, tuple[contextlib.ExitStack, float]] = {}
        self.part = False

    @property
    def cache_path(self) -> str:
        return str(self._folder)

    def _file(self, sig: Any, codegen: Any, part: bool) -> tuple[str, Path]:
        key = repr((*sigutils.normalize_signature(sig), codegen.magic_tuple(), config.OPT, config.BOUNDSCHECK, part))
        return key, self._folder / f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.nbc"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load; where there is nothing, the caller is the one who compiles, or this waits for who does.

        What Python calls can be taken in as well as a part.
        """
        target_context.refresh()
        key, file = self._file(sig, target_context.codegen(), self.part)
        found = _read(file, key)
        if found is None and self.part:
            whole, there = self._file(sig, target_context.codegen(), False)
            found = _read(there, whole)
        if found is None:
            held = contextlib.ExitStack()
            held.enter_context(_only_one(file.with_suffix(".lock")))
            found = _read(file, key)
            if found is not None:
                held.close()
            else:
                self._waiting[str(sig)] = held, time.perf_counter()
        return None if found is None else compiler.CompileResult._rebuild(target_context, *found)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write the code whole or not at all; a folder or disk that takes nothing is no error."""
        key, file = self._file(sig, data.codegen, self.part)
        if data.lifted or data.library.has_dynamic_globals:
            return
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        try:
            temporary.write_bytes(dumps((key, data._reduce())))
            temporary.replace(file)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def release(self, sig: Any) -> None:
        """Let those go on who wait for this signature."""
        held, start = self._waiting.pop(str(sig), (None, 0.0))
        if held is not None:
            held.close()
            _compiled[f"{self._folder.name}.{self._name}{sig}"] = time.perf_counter() - start


def _read(file: Path, key: str) -> Any:
    """Return what a file holds, None where it is not there, broken, or of another key."""
    try:
        kept, data = pickle.loads(file.read_bytes())
    except (OSError, EOFError, ValueError, pickle.UnpicklingError):
        return None
    return data if kept == key else None


@contextlib.contextmanager
def _only_one(file: Path) -> Iterator[None]:
    """Wait until no other process holds this lock (it goes with a process that dies), but not for ever.

    Locks of POSIX, not of ``flock``: a forked child does not inherit them.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            opened = stack.enter_context(file.open("w"))
            stack.callback(file.unlink, missing_ok=True)
            end = time.monotonic() + _PATIENCE_S
            while fcntl is not None and time.monotonic() < end:
                with contextlib.suppress(BlockingIOError, PermissionError):
                    fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(0.02)
        yield
