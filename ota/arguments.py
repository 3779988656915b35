"""Check what verbs are given, and let verbs share options."""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import MISSING, fields
from pathlib import Path

from sdr.errors import ConfigError
from sdr.outputs import check_apart, growing_folder


def check_method(method: str, methods: Sequence[str] | Mapping[str, object]) -> None:
    """Refuse a method that does not exist; settings after a colon are not looked at.

    Raises:
        ConfigError: with the nearest name.
    """
    method = method.partition(":")[0]
    if method not in methods:
        from difflib import get_close_matches

        near = get_close_matches(method, list(methods), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"There is no method {method!r}; use one of {', '.join(methods)}.{hint}")


def parse_antennas(text: str) -> tuple[int, ...]:
    """Return numbers of antennas in order, none for an empty text.

    Raises:
        ConfigError: it is no list of different numbers.

    >>> parse_antennas("2, 0"), parse_antennas("")
    ((0, 2), ())
    """
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    if not all(word.isascii() and word.isdigit() for word in words) or len({*map(int, words)}) != len(words):
        raise ConfigError(f"--use-antennas takes different numbers from 0 on, as in 0 or 0,2; found {text!r:.60}.")
    return tuple(sorted(map(int, words)))


def bundle_folder(out: Path) -> AbstractContextManager[None]:
    """Hold the folder of a bundle, new or begun."""
    begun = any(out.glob("*.checkpoint.pt")) or any(out.glob("*.safetensors")) or (out / "bundle.toml").is_file()
    return growing_folder(out, begun=begun)


def use_device(device: str) -> None:
    """Refuse a device that torch does not know or this machine does not have, and share the processor well.

    Half of the processors are used unless OMP_NUM_THREADS says otherwise: the networks are small, and a thread that
    has to wait for a busy processor holds up all the others.

    Raises:
        ConfigError: see above.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        first = str(error).splitlines()[0][:160]
        raise ConfigError(f"--device {device} can't be used here ({first}). Use cpu.") from error


def with_options(options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a verb take the options of a frozen dataclass in one argument.

    Each field of the class is an option of the verb, declared as `Annotated[type, typer.Option(..)]` with its default;
    so the options that verbs share are written once. The argument is the one annotated with the class.

    Args:
        options: the dataclass.
    """
    hints = typing.get_type_hints(options, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(options)
    ]

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(verb, eval_str=True)
        parameters: list[inspect.Parameter] = []
        place = ""
        for parameter in signature.parameters.values():
            if parameter.annotation is options:
                place = parameter.name
                parameters += shared
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

        @functools.wraps(verb)
        def command(**given: object) -> None:
            taken = options(**{parameter.name: given.pop(parameter.name) for parameter in shared})
            verb(**given, **{place: taken})

        # Typer reads its options off the signature.
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return decorate


#: Options that name a file or a folder without being a Path: names of what we ship, and addresses of radios.
_NAMED_FILES = ("layout", "bundle", "start", "radio", "rx", "rx_radio")


def guard_inputs(verb: Callable[..., None]) -> Callable[..., None]:
    """Let a verb with an `out` refuse, before anything else, an output and an input that lie in each other.

    Inputs are all other options and arguments that are paths, and those of `_NAMED_FILES` that name one.
    """
    if "out" not in inspect.signature(verb).parameters:
        return verb

    @functools.wraps(verb)
    def guarded(**given: object) -> None:
        if isinstance(out := given["out"], Path):
            check_apart(out, _inputs(given))
        verb(**given)

    return guarded


def _inputs(given: Mapping[str, object]) -> list[Path]:
    found: list[Path] = []
    for name, value in given.items():
        values = value if isinstance(value, list | tuple) else [value]
        if name != "out":
            found += [item for item in values if isinstance(item, Path)]
        if name in _NAMED_FILES and isinstance(value, str):
            path = Path(value.removeprefix("file:"))
            if value.startswith("file:") or path.exists():
                found.append(path)
    return found
