from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_REGISTER: _ClassVar[Kind]
    KIND_SET: _ClassVar[Kind]
    KIND_COUNTER: _ClassVar[Kind]
    KIND_TEXT: _ClassVar[Kind]
KIND_REGISTER: Kind
KIND_SET: Kind
KIND_COUNTER: Kind
KIND_TEXT: Kind

class Entry(_message.Message):
    __slots__ = ("record", "field", "kind", "member", "scalar", "share", "edit")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    SCALAR_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    EDIT_FIELD_NUMBER: _ClassVar[int]
    record: str
    field: str
    kind: Kind
    member: bytes
    scalar: Scalar
    share: Share
    edit: Edit
    def __init__(self, record: _Optional[str] = ..., field: _Optional[str] = ..., kind: _Optional[_Union[Kind, str]] = ..., member: _Optional[bytes] = ..., scalar: _Optional[_Union[Scalar, _Mapping[str, object]]] = ..., share: _Optional[_Union[Share, _Mapping[str, object]]] = ..., edit: _Optional[_Union[Edit, _Mapping[str, object]]] = ...) -> None: ...

class Scalar(_message.Message):
    __slots__ = ("text", "integer", "number", "flag", "data")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    text: str
    integer: int
    number: float
    flag: bool
    data: bytes
    def __init__(self, text: _Optional[str] = ..., integer: _Optional[int] = ..., number: _Optional[float] = ..., flag: _Optional[bool] = ..., data: _Optional[bytes] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("total", "confirmed")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    total: int
    confirmed: int
    def __init__(self, total: _Optional[int] = ..., confirmed: _Optional[int] = ...) -> None: ...

class Edit(_message.Message):
    __slots__ = ("starts", "removed", "inserted", "base", "depth")
    STARTS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    INSERTED_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    starts: _containers.RepeatedScalarFieldContainer[int]
    removed: _containers.RepeatedScalarFieldContainer[int]
    inserted: _containers.RepeatedScalarFieldContainer[str]
    base: str
    depth: int
    def __init__(self, starts: _Optional[_Iterable[int]] = ..., removed: _Optional[_Iterable[int]] = ..., inserted: _Optional[_Iterable[str]] = ..., base: _Optional[str] = ..., depth: _Optional[int] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("counters", "stamps", "contexts", "entries")
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    STAMPS_FIELD_NUMBER: _ClassVar[int]
    CONTEXTS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    counters: _containers.RepeatedScalarFieldContainer[int]
    stamps: _containers.RepeatedScalarFieldContainer[int]
    contexts: _containers.RepeatedScalarFieldContainer[int]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    def __init__(self, counters: _Optional[_Iterable[int]] = ..., stamps: _Optional[_Iterable[int]] = ..., contexts: _Optional[_Iterable[int]] = ..., entries: _Optional[_Iterable[_Union[Entry, _Mapping[str, object]]]] = ...) -> None: ...

class BlobManifest(_message.Message):
    __slots__ = ("num_bytes", "digest", "names")
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    num_bytes: int
    digest: bytes
    names: bytes
    def __init__(self, num_bytes: _Optional[int] = ..., digest: _Optional[bytes] = ..., names: _Optional[bytes] = ...) -> None: ...
