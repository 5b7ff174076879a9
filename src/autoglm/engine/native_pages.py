"""The pages of a native model's prefix cache, to be saved and put back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoglm.errors import translate_core_errors

if TYPE_CHECKING:
    from autoglm import _core


class NativePages:
    """Reads and writes pages of one executor. Safe to use from several threads."""

    def __init__(self, executor: _core.Executor, plan: _core.Plan) -> None:
        self._executor = executor
        self._plan = plan

    @property
    def page_bytes(self) -> int:
        """The size of a page."""
        return self._executor.page_bytes

    @property
    def identity(self) -> bytes:
        """What the content of a page depends on, besides the model's files."""
        from autoglm import __version__

        plan, isa = self._plan, self._executor.isa
        rounding = f"{plan.kv_dtype} {plan.activation_bits}"
        sizes = f"{plan.window} {plan.sink} {self.page_bytes}"
        return f"{__version__} {isa} {rounding} {sizes}".encode()

    def num_cached(self, ids: Sequence[int]) -> int:
        """How many leading tokens have pages."""
        return self._executor.num_cached(list(ids))

    def cached_prefixes(self) -> list[list[int]]:
        """The token ids that pages stand for, the latest used first."""
        return self._executor.cached_prefixes()

    def read_page(self, ids: Sequence[int]) -> bytes | None:
        """The page that ends with the last of `ids`, None when it is gone."""
        with translate_core_errors():
            return self._executor.read_page(list(ids))

    def write_page(self, ids: Sequence[int], data: bytes) -> bool:
        """Put a page back; False when those before it are missing or there is no room."""
        with translate_core_errors():
            return self._executor.write_page(list(ids), data)
