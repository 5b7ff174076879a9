from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SyncRequest(_message.Message):
    __slots__ = ("hello", "knowledge", "batch", "skipped", "versions", "wanted")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    KNOWLEDGE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    knowledge: Knowledge
    batch: int
    skipped: int
    versions: Versions
    wanted: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping[str, object]]] = ..., knowledge: _Optional[_Union[Knowledge, _Mapping[str, object]]] = ..., batch: _Optional[int] = ..., skipped: _Optional[int] = ..., versions: _Optional[_Union[Versions, _Mapping[str, object]]] = ..., wanted: _Optional[_Iterable[int]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "actor", "enrolment")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    ENROLMENT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    actor: int
    enrolment: int
    def __init__(self, protocol: _Optional[int] = ..., actor: _Optional[int] = ..., enrolment: _Optional[int] = ...) -> None: ...

class Knowledge(_message.Message):
    __slots__ = ("epoch", "acked", "vector")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ACKED_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    acked: int
    vector: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, epoch: _Optional[int] = ..., acked: _Optional[int] = ..., vector: _Optional[_Iterable[int]] = ...) -> None: ...

class SyncResponse(_message.Message):
    __slots__ = ("acked", "epoch", "vector", "versions", "more", "forked", "inline", "actor")
    ACKED_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    FORKED_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    acked: int
    epoch: int
    vector: _containers.RepeatedScalarFieldContainer[int]
    versions: Versions
    more: bool
    forked: bool
    inline: _containers.RepeatedScalarFieldContainer[int]
    actor: int
    def __init__(self, acked: _Optional[int] = ..., epoch: _Optional[int] = ..., vector: _Optional[_Iterable[int]] = ..., versions: _Optional[_Union[Versions, _Mapping[str, object]]] = ..., more: _Optional[bool] = ..., forked: _Optional[bool] = ..., inline: _Optional[_Iterable[int]] = ..., actor: _Optional[int] = ...) -> None: ...

class Versions(_message.Message):
    __slots__ = ("cells", "actors", "counters", "stamps", "contexts", "sizes", "payloads", "tombstones", "needs", "salts", "salt_of", "shared")
    CELLS_FIELD_NUMBER: _ClassVar[int]
    ACTORS_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    STAMPS_FIELD_NUMBER: _ClassVar[int]
    CONTEXTS_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    TOMBSTONES_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    SALTS_FIELD_NUMBER: _ClassVar[int]
    SALT_OF_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    cells: bytes
    actors: _containers.RepeatedScalarFieldContainer[int]
    counters: _containers.RepeatedScalarFieldContainer[int]
    stamps: _containers.RepeatedScalarFieldContainer[int]
    contexts: _containers.RepeatedScalarFieldContainer[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    payloads: bytes
    tombstones: _containers.RepeatedScalarFieldContainer[int]
    needs: _containers.RepeatedScalarFieldContainer[int]
    salts: bytes
    salt_of: _containers.RepeatedScalarFieldContainer[int]
    shared: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, cells: _Optional[bytes] = ..., actors: _Optional[_Iterable[int]] = ..., counters: _Optional[_Iterable[int]] = ..., stamps: _Optional[_Iterable[int]] = ..., contexts: _Optional[_Iterable[int]] = ..., sizes: _Optional[_Iterable[int]] = ..., payloads: _Optional[bytes] = ..., tombstones: _Optional[_Iterable[int]] = ..., needs: _Optional[_Iterable[int]] = ..., salts: _Optional[bytes] = ..., salt_of: _Optional[_Iterable[int]] = ..., shared: _Optional[_Iterable[int]] = ...) -> None: ...
