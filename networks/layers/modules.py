"""PyTorch's list of modules, which for type checkers knows the class of its modules."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from torch import nn

if TYPE_CHECKING:
    M = TypeVar("M", bound=nn.Module)

    class ModuleList(nn.ModuleList, Generic[M]):
        def __init__(self, modules: Iterable[M]) -> None: ...

        @overload
        def __getitem__(self, idx: slice) -> "ModuleList[M]": ...

        @overload
        def __getitem__(self, idx: int) -> M: ...

        def __getitem__(self, idx: Any) -> Any: ...

else:
    ModuleList = nn.ModuleList
