"""What a pilot runs: one task of one job, with every expression evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from iceprod.model.arguments import argument_vector, split_words
from iceprod.model.config import JsonObject, default_movement, items, join, wrong_type
from iceprod.model.evaluation import Evaluator, Frame, local_name


class Transfer(StrEnum):
    """Whether a file is moved."""

    YES = "yes"  # it must be there
    MAYBE = "maybe"  # if it is there
    NO = "no"


@dataclass(frozen=True, slots=True)
class File:
    """A file to move: a data entry or a resource.

    ``local`` is its name in the task's directory; ``area`` is ``permanent``, a temp area, or
    ``resource``; ``remote`` is a URL or a path below the area's URL, and ``local`` if not given.
    """

    local: str
    remote: str
    area: str
    is_input: bool
    is_output: bool
    transfer: Transfer = Transfer.YES
    compression: bool | str = False
    arch: str = ""


@dataclass(frozen=True, slots=True)
class SoftwareClass:
    """Software to fetch before the modules run; the fields are the format's."""

    name: str
    src: str = ""
    resource_name: str = ""
    recursive: bool = False
    libs: str = ""
    env_vars: str = ""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a scope moves and fetches."""

    files: tuple[File, ...] = ()
    classes: tuple[SoftwareClass, ...] = ()


@dataclass(frozen=True, slots=True)
class ModuleRun:
    """One program to start.

    ``args`` are as evaluated (for a ``running_class``), ``argv`` the same as an argument vector;
    ``env_shell`` is a command that is put before the program's; ``configs`` are JSON files to
    write beside it, by name.
    """

    name: str
    pointer: str
    src: str
    running_class: str
    args: Any
    argv: tuple[str, ...]
    env_shell: tuple[str, ...]
    env_clear: bool
    configs: Mapping[str, Any]
    needs: Needs


@dataclass(frozen=True, slots=True)
class TrayRun:
    """One iteration of a tray."""

    name: str
    index: int
    iteration: int
    needs: Needs
    modules: tuple[ModuleRun, ...]


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One task of one job, ready to run.

    ``needs`` holds those of the steering and of the task; ``temp_urls`` the evaluated URLs of the
    options, by name (``job_temp``, ``data_url``, …).
    """

    name: str
    index: int
    needs: Needs
    trays: tuple[TrayRun, ...]
    parameters: Mapping[str, Any]
    options: Mapping[str, Any]
    temp_urls: Mapping[str, str] = field(default_factory=dict)
    container: str = ""
    task_files: bool = False
    token_scopes: Mapping[str, str] = field(default_factory=dict)


URL_OPTIONS = (
    "site_temp",
    "dataset_temp",
    "job_temp",
    "task_temp",
    "tray_temp",
    "data_url",
    "resource_url",
)


def expand_task(
    config: Mapping[str, Any],
    index: int,
    options: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
) -> TaskRun:
    """Task number ``index`` of ``config`` with everything evaluated.

    ``options`` as of `iceprod.model.config.options_for`; ``environ`` the worker's environment
    variables.  Raises FormatError if the configuration is not of the right shape or an
    expression is over a limit.
    """
    movement = default_movement(config)
    evaluator = Evaluator(config, options, environ=environ)
    steering = evaluator.steering()
    frame = evaluator.task(steering, index)
    task = evaluator.tasks()[index]
    outer, own = _needs(steering, movement), _needs(frame, movement)
    return TaskRun(
        name=_text(task.get("name")),
        index=index,
        needs=Needs(outer.files + own.files, outer.classes + own.classes),
        trays=_trays(evaluator, frame, task, movement=movement),
        parameters=dict(frame.scope.parameters),
        options=dict(frame.scope.options),
        temp_urls={
            name: _text(frame.value(frame.scope.options[name]))
            for name in URL_OPTIONS
            if frame.scope.options.get(name)
        },
        container=_text(frame.value(task.get("container"), "container")),
        task_files=bool(task.get("task_files")),
        token_scopes=dict(task.get("token_scopes") or {}),
    )


def _trays(evaluator: Evaluator, task: Frame, node: JsonObject, *, movement: str) -> tuple[TrayRun, ...]:
    runs = []
    for index, tray in enumerate(items(node, "trays", task.pointer)):
        for iteration, frame in enumerate(evaluator.iterations(task, tray, index)):
            modules = tuple(
                _module(evaluator.module(frame, module, i), module, movement)
                for i, module in enumerate(items(tray, "modules", frame.pointer))
            )
            runs.append(
                TrayRun(
                    name=_text(tray.get("name")),
                    index=index,
                    iteration=iteration,
                    needs=_needs(frame, movement),
                    modules=modules,
                )
            )
    return tuple(runs)


def _module(frame: Frame, node: JsonObject, movement: str) -> ModuleRun:
    args = frame.value(node.get("args"), "args")
    configs = frame.value(node.get("configs") or {}, "configs")
    if not isinstance(configs, dict):
        raise wrong_type(join(frame.pointer, "configs"), "an object")
    return ModuleRun(
        name=_text(node.get("name")),
        pointer=frame.pointer + frame.suffix,
        src=_text(frame.value(node.get("src"), "src")),
        running_class=_text(frame.value(node.get("running_class"), "running_class")),
        args=args,
        argv=argument_vector(args),
        env_shell=_words(frame.value(node.get("env_shell"), "env_shell")),
        env_clear=node.get("env_clear") is not False,
        configs=configs,
        needs=_needs(frame, movement),
    )


_NO_NEEDS = Needs()


def _needs(frame: Frame, movement: str) -> Needs:
    if not (frame.resources or frame.data or frame.classes):
        return _NO_NEEDS
    resources = [_file(entry, area="resource", movement="input") for entry in frame.resources]
    data = [
        _file(entry, area=_text(entry.get("type")) or "permanent", movement=entry.get("movement") or movement)
        for entry in frame.data
    ]
    return Needs(files=(*resources, *data), classes=tuple(_class(entry) for entry in frame.classes))


def _file(entry: JsonObject, *, area: str, movement: str) -> File:
    local = local_name(entry)
    compression = entry.get("compression")
    return File(
        local=local,
        remote=_text(entry.get("remote")) or local,
        area=area,
        is_input=movement in ("input", "both"),
        is_output=movement in ("output", "both"),
        transfer=transfer_of(entry.get("transfer")),
        compression=compression if isinstance(compression, bool | str) else False,
        arch=_text(entry.get("arch")),
    )


def _class(entry: JsonObject) -> SoftwareClass:
    return SoftwareClass(
        name=_text(entry.get("name")),
        src=_text(entry.get("src")),
        resource_name=_text(entry.get("resource_name")),
        recursive=bool(entry.get("recursive")),
        libs=_text(entry.get("libs")),
        env_vars=_text(entry.get("env_vars")),
    )


def transfer_of(value: Any) -> Transfer:
    """What an evaluated ``transfer`` means: no, only if the file exists, or (anything else) yes."""
    if isinstance(value, str):
        word = value.lower()
        if word in ("n", "no", "not", "f", "false"):
            return Transfer.NO
        is_optional = word in ("m", "maybe", "exists") or word.startswith("if")
        return Transfer.MAYBE if is_optional else Transfer.YES
    return Transfer.NO if value is not None and value == 0 else Transfer.YES


def _words(value: Any) -> tuple[str, ...]:
    text = _text(value)
    return tuple(split_words(text)) if text else ()


def _text(value: Any) -> str:
    return "" if value is None else str(value)
