"""What an entry of a file can be, and the sentence that refuses another value.

The types are those of msgspec: a Python type with its range, and a description. Where a value does
not fit its type the description says what was expected.
"""

import sys
from functools import cache
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct, ValidationError

LARGEST = sys.float_info.max

SCALES = ("smoke", "reduced", "full")
Scale = Annotated[
    str,
    Meta(pattern=rf"^({'|'.join(SCALES)})\Z", description=f"one of {', '.join(SCALES)}"),
]
Split = Annotated[str, Meta(pattern=r"^(train|test)\Z", description="train or test")]
Name = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*\Z", description="a plain file name")
]
Text = Annotated[str, Meta(pattern=r"\S", description="a text, not empty")]
Commit = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{40}\Z", description="a text of 40 hexadecimal digits")
]
Fingerprint = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{16}\Z", description="a text of 16 hexadecimal digits")
]
Time = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|\+00:00)\Z",
        description="an ISO 8601 time in UTC",
    ),
]
Flag = Annotated[bool, Meta(description="true or false")]
Index = Annotated[int, Meta(ge=0, description="an integer, not negative")]
Size = Annotated[int, Meta(ge=1, description="an integer of at least 1")]
Share = Annotated[float, Meta(ge=0, le=1, description="a number in [0, 1]")]
Amount = Annotated[float, Meta(ge=0, le=LARGEST, description="a finite number, not negative")]
Finite = Annotated[float, Meta(ge=-LARGEST, le=LARGEST, description="a finite number")]
Plain = Annotated[bool | int | Finite | str | None, Meta(description="a plain value")]
Settings = Annotated[dict[str, Plain], Meta(description="a dictionary of plain values")]


def checked(kind: Any, key: str, value: Any) -> Any:
    """A checked copy of a value.

    Args:
        kind: What it must be: a type, or a struct.
        key: Its name in messages.
        value: The value, of plain lists and dictionaries, or a struct.

    Raises:
        ValueError: The value, or an entry of it, is not of its kind.

    Examples:
        >>> checked(list[Share], "error", [0.5, 0])
        [0.5, 0.0]
        >>> checked(list[Share], "error", [0.5, 1.5])
        Traceback (most recent call last):
        ValueError: error[1] must be a number in [0, 1], but error[1] = 1.5.
    """
    plain = msgspec.structs.asdict(value) if isinstance(value, Struct) else value
    try:
        return msgspec.convert(plain, kind)
    except ValidationError:
        raise ValueError(_complaint(kind, key, plain)) from None


def require_keys(key: str, value: Any, required: set[str], allowed: set[str] | None = None) -> None:
    """Raise ValueError if a value is no dictionary, lacks a key, or has one that is not allowed.

    Args:
        key: Name of the dictionary in messages.
        value: What should be a dictionary.
        required: Keys that it must have.
        allowed: Keys that it may have; any others if this is ``None``.

    Examples:
        >>> require_keys("note", {"seed": 0}, {"seed", "epoch"})
        Traceback (most recent call last):
        ValueError: note lacks the key 'epoch'.
    """
    if not isinstance(value, dict):
        raise ValueError(refusal(key, "a dictionary", value))
    for name in sorted(required - set(value)):
        raise ValueError(f"{key} lacks the key {name!r}.")
    if allowed is not None:
        for name in sorted(set(value) - allowed, key=str):
            raise ValueError(f"{key} must not have the key {name!r}.")


def refusal(key: str, expected: str, value: object) -> str:
    """The sentence that refuses a value: its name, what was expected, and what is there."""
    return f"{key} must be {expected}, but {key} = {value!r:.99}."


def sentence(error: BaseException) -> str:
    """What an error says, with a period at the end."""
    return f"{str(error).rstrip('.')}."


@cache
def declared(struct: type[Struct]) -> dict[str, Any]:
    """The fields of a struct and their types, with what limits them."""
    return get_type_hints(struct, include_extras=True)


def _complaint(kind: Any, key: str, value: Any) -> str:
    """The sentence about the first entry, however deep, that does not fit."""
    try:
        parts = _parts(kind, key, value)
    except ValueError as error:
        return str(error)
    for name, (inner, entry) in parts.items():
        if not _fits(inner, entry):
            return _complaint(inner, name, entry)
    return refusal(key, _words(kind), value)


def _parts(kind: Any, key: str, value: Any) -> dict[str, tuple[Any, Any]]:
    """Type and value of each entry of a dictionary or list, by its name in messages."""
    kind = _bare(kind)
    if _is_struct(kind) and isinstance(value, dict):
        fields = declared(kind)
        required = {field.name for field in msgspec.structs.fields(kind) if field.required}
        require_keys(key, value, required, set(fields))
        return {f"{key}.{name}": (fields[name], entry) for name, entry in value.items()}
    if get_origin(kind) is list and isinstance(value, list):
        (inner,) = get_args(kind)
        return {f"{key}[{i}]": (inner, entry) for i, entry in enumerate(value)}
    if get_origin(kind) is dict and isinstance(value, dict):
        _, inner = get_args(kind)
        return {f"{key}.{name}": (inner, entry) for name, entry in value.items()}
    return {}


def _fits(kind: Any, value: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except ValidationError:
        return False
    return True


def _words(kind: Any) -> str:
    """What a kind is called in messages."""
    for meta in getattr(kind, "__metadata__", ()):
        return meta.description
    if _is_struct(kind):
        return "a dictionary"
    if get_origin(kind) is list:
        return "a list"
    return f"null or {' or '.join(map(_words, _options(kind)))}"


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _bare(kind: Any) -> Any:
    """A type without what limits it, and without null if that is the only other choice."""
    if get_origin(kind) is Annotated:
        return get_args(kind)[0]
    if NoneType in get_args(kind) and len(_options(kind)) == 1:
        return _options(kind)[0]
    return kind


def _options(kind: Any) -> list[Any]:
    """The types of a choice, without null."""
    return [inner for inner in get_args(kind) if inner is not NoneType]
