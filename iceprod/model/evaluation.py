"""Evaluating a configuration for one job: scopes from steering down to the modules.

Each scope has the parameters of those around it, overridden by its own, which are evaluated in
the order in which they are written: one that names a later one gets its text, and is expanded
again.  `evaluate` lists every value of a configuration; `expand_task` makes what a pilot runs.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from iceprod.errors import FormatError
from iceprod.model.config import JsonObject, default_movement, items, join, section, wrong_type
from iceprod.model.expressions import Budget, Scope, expand, is_open, phrases_in
from iceprod.model.values import value

MAX_ITERATIONS = 10_000
_MAX_NESTING = 100
_WORK = 50_000_000  # for a whole configuration; one with a dozen modules needs a five-hundredth

_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})", re.ASCII)


@value
class Frame:
    """One scope, evaluated: its parameters, what it moves, and how to evaluate in it.

    ``pointer`` says where in the document it lies, ``suffix`` is ``#ITER`` within a tray.
    """

    scope: Scope
    budget: Budget
    pointer: str = ""
    suffix: str = ""
    data: tuple[JsonObject, ...] = ()
    resources: tuple[JsonObject, ...] = ()
    classes: tuple[JsonObject, ...] = ()

    def value(self, raw: Any, *keys: str | int) -> Any:
        """The evaluated ``raw``, which lies at ``keys`` in this scope; objects keep their keys.

        Raises FormatError, with the place, if an expression is over a limit.
        """
        if raw is None or raw in ("", [], {}):  # most of what a configuration could say, it does not
            return raw
        try:
            return self._evaluated(raw, keys, _MAX_NESTING)
        except FormatError as exc:
            place = join(self.pointer, *keys)
            exc.detail.setdefault("fields", [{"path": place, "message": exc.message}])
            raise

    def _evaluated(self, raw: Any, keys: tuple[str | int, ...], depth: int) -> Any:
        if isinstance(raw, str):
            place = f"\0{join(self.pointer, *keys)}{self.suffix}" if is_open(raw) else ""
            found = expand(raw, self.scope, budget=self.budget, place=place)
            return _with_variables(found, self.scope.environ) if isinstance(found, str) else found
        if not isinstance(raw, list | dict):
            return raw
        if depth < 1:
            raise FormatError("a value is nested too deep")
        if isinstance(raw, list):
            return [self._evaluated(item, keys, depth - 1) for item in raw]
        return {key: self._evaluated(item, keys, depth - 1) for key, item in raw.items()}

    def parameter(self, key: str) -> Any:
        """The value of a parameter of this scope, with the texts in a list or object evaluated."""
        found = self.scope.parameters[key]
        if isinstance(found, str) or not phrases_in(found):
            return found
        return self.value(found, "parameters", key)


def _with_variables(text: str, environ: Mapping[str, str] | None) -> str:
    """``text`` with ``$NAME`` and ``${NAME}`` replaced where the environment has them."""
    if environ is None or "$" not in text:
        return text
    return _VARIABLE.sub(lambda found: environ.get(found[1].strip("{}"), found[0]), text)


class Evaluator:
    """Opens the scopes of one configuration for one job.

    ``options`` are those of `iceprod.model.config.options_for`, laid over the configuration's
    own.  With ``environ``, environment variables are replaced too, as on the worker node.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        options: Mapping[str, Any],
        *,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.config = config
        self._movement = default_movement(config)
        self._environ = environ
        self._options = section(config, "options", "") | dict(options)
        top = {key: value for key, value in config.items() if not isinstance(value, dict)}
        if not top.get("dataset"):
            top.pop("dataset", None)  # zero means: the number that the server gave
        self._top = {"version": 3, "description": "", "categories": []} | top
        self._seed = f"{self._top.get('dataset', self._options.get('dataset'))}\0{self._options.get('job')}"

    def tasks(self) -> list[Any]:
        """The task objects of the configuration."""
        return items(self.config, "tasks", "")

    def steering(self) -> Frame:
        """The outermost scope."""
        steering = section(self.config, "steering", "")
        difplus = section(self.config, "difplus", "")
        scope = Scope(
            top=self._top,
            options=self._options,
            steering=section(steering, "parameters", "/steering"),
            system=section(steering, "system", "/steering"),
            metadata=(section(difplus, "dif", "/difplus"), section(difplus, "plus", "/difplus")),
            environ=self._environ,
            place=f"{self._seed}\0",
        )
        return self.enter(Frame(scope=scope, budget=Budget(_WORK)), steering, "/steering")

    def task(self, steering: Frame, index: int) -> Frame:
        """The scope of one task."""
        tasks = self.tasks()
        if not 0 <= index < len(tasks):
            raise FormatError(f"there is no task {index}; the configuration has {len(tasks)}")
        options = {"task": index} | dict(steering.scope.options)
        scope = steering.scope.with_options(options, f"{self._seed}\0{index}")
        return self.enter(Frame(scope, steering.budget, steering.pointer), tasks[index], f"/tasks/{index}")

    def iterations(self, task: Frame, tray: Any, index: int) -> Iterator[Frame]:
        """The scope of a tray, once for each iteration."""
        pointer = f"{task.pointer}/trays/{index}"
        for iteration in range(iterations_of(tray, pointer)):
            scope = task.scope.with_options(dict(task.scope.options) | {"iter": iteration})
            yield self.enter(Frame(scope, task.budget, task.pointer, f"#{iteration}"), tray, pointer)

    def module(self, tray: Frame, module: Any, index: int) -> Frame:
        """The scope of a module."""
        return self.enter(tray, module, f"{tray.pointer}/modules/{index}")

    def enter(self, outer: Frame, node: Any, pointer: str) -> Frame:
        """The scope of ``node`` within ``outer``."""
        if not isinstance(node, dict):
            raise wrong_type(pointer, "an object")
        own = section(node, "parameters", pointer)
        parameters = {**outer.scope.parameters, **own}
        scope = outer.scope.with_parameters(parameters)
        frame = Frame(scope, outer.budget, pointer, outer.suffix)
        for key, raw in own.items():
            # A list or object is evaluated where it is used, so that a name in it means there
            # what it means in a text.
            parameters[key] = frame.value(raw, "parameters", key) if isinstance(raw, str) else raw
        resources = _listed(frame, node, "resources")
        data = _listed(frame, node, "data")
        if data or not outer.pointer:
            scope = self._with_files(scope, data)
        frame = Frame(scope, outer.budget, pointer, outer.suffix, data, resources)
        classes = (*_listed(frame, node, "classes"), *_listed(frame, node, "projects"))
        return replace(frame, classes=classes) if classes else frame

    def _with_files(self, scope: Scope, data: tuple[JsonObject, ...]) -> Scope:
        """The options ``input`` and ``output`` name the files moved by this scope and those around."""
        names = {key: str(scope.options.get(key) or "").split() for key in ("input", "output")}
        for entry in data:
            movement = entry.get("movement") or self._movement
            for key, listed in names.items():
                if movement in (key, "both"):
                    listed.append(local_name(entry))
        return scope.with_options(dict(scope.options) | {k: " ".join(v) for k, v in names.items()})


def _listed(frame: Frame, node: JsonObject, key: str) -> tuple[JsonObject, ...]:
    listed = items(node, key, frame.pointer)
    if not listed:
        return ()
    entries = []
    for i, raw in enumerate(listed):
        if not isinstance(raw, dict):
            raise wrong_type(join(frame.pointer, key, i), "an object")
        entries.append(frame.value(raw, key, i))
    return tuple(entries)


def local_name(entry: Mapping[str, Any]) -> str:
    """The name of a file in the task's directory: ``local``, or the last part of ``remote``."""
    return str(entry.get("local") or "") or posixpath.basename(str(entry.get("remote") or ""))


def iterations_of(tray: Any, pointer: str) -> int:
    """How often a tray runs; raises FormatError unless it is a whole number within the limit."""
    count = tray.get("iterations", 1) if isinstance(tray, dict) else 1
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_ITERATIONS:
        raise wrong_type(f"{pointer}/iterations", f"a whole number from 0 to {MAX_ITERATIONS}")
    return count


def evaluate(
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Every value of ``config`` for one job: item -> value.

    An item is the JSON pointer of the value in the document, followed by ``#ITER`` within a
    tray: all steering parameters, data entries, and the ``args``, ``src``, ``env_shell`` and
    ``running_class`` that are given and not empty.  Raises FormatError if an expression is over
    a limit or the document is not of the right shape.
    """
    found: dict[str, Any] = {}
    for frame, node in walk(Evaluator(config, options, environ=environ)):
        if frame.pointer == "/steering":
            for key in section(node, "parameters", "/steering"):
                found[join("/steering/parameters", key)] = frame.parameter(key)
        for i, entry in enumerate(frame.data):
            found[f"{frame.pointer}/data/{i}{frame.suffix}"] = entry
        if "/modules/" in frame.pointer:
            for key in ("args", "src", "env_shell", "running_class"):
                if node.get(key):
                    found[f"{frame.pointer}/{key}{frame.suffix}"] = frame.value(node[key], key)
    return found


def walk(evaluator: Evaluator) -> Iterator[tuple[Frame, JsonObject]]:
    """Every scope of a configuration, outermost first, with the object it belongs to."""
    steering = evaluator.steering()
    yield steering, section(evaluator.config, "steering", "")
    for index, task in enumerate(evaluator.tasks()):
        inside = evaluator.task(steering, index)
        yield inside, task
        for number, tray in enumerate(items(task, "trays", inside.pointer)):
            for frame in evaluator.iterations(inside, tray, number):
                yield frame, tray
                for i, module in enumerate(items(tray, "modules", frame.pointer)):
                    yield evaluator.module(frame, module, i), module
