"""Which of TensorRT's classes and attributes our code uses, read from its syntax.

TensorRT's objects are `Any` to the type checker. Here a small inference follows them: parameters by their names
(`PARAMETERS`), then whatever is assigned, returned, or called on them, with the results that the bindings state. An
`Any` that is in neither list of names is an error, so that no use can hide behind a new name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What an `Any` of this name is. MODULE is TensorRT itself.
MODULE = "module"
PARAMETERS = {
    "trt": MODULE,
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "engine": "ICudaEngine",
    "logger": "ILogger",
    "context": "IExecutionContext",
    "runtime": "Runtime",
    "dtype": "DataType",
    "severity": "ILogger.Severity",
    "profile": "IOptimizationProfile",
}
# `Any`s that are none of TensorRT's.
PLAIN = {"layer", "tensor", "value", "options", "item"}
# Functions of ours in other files that return TensorRT; a method whose bindings do not say what it returns.
RETURNS = {
    "require": MODULE,
    "load_builder": MODULE,
    "get_error": "ParserError",
    "make_context": "IExecutionContext",
    "_make_context": "IExecutionContext",
}
# Attributes of objects of ours.
ATTRIBUTES = {"context": "IExecutionContext"}


@dataclass(frozen=True)
class Use:
    """One use: `kind` is `read`, `set`, `call`, `asked` (hasattr, or getattr with a default) or `override`."""

    owner: str
    name: str
    kind: str
    arguments: int
    where: str


def merged(tables: Iterable[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Per class of any version its attributes with what they return, where any version says it."""
    found: dict[str, dict[str, str]] = {}
    for table in tables:
        for name, attributes in table["classes"].items():
            known = found.setdefault(name, {})
            for attribute, kind in attributes.items():
                words = kind.split()
                result = words[-1] if words[-1] in table["classes"] or words[-1] in table["enums"] else ""
                known[attribute] = known.get(attribute) or result
        for name in table["enums"]:
            found.setdefault(name, {})
    return found


def uses(path: Path, classes: dict[str, dict[str, str]]) -> list[Use]:
    """All uses in a file.

    Raises:
        AssertionError: A parameter that is `Any` and of no known name.
    """
    tree = ast.parse(path.read_text(), str(path))
    reader = _Reader(path.name, classes)
    for _ in range(3):  # what functions return and objects keep is known after the first pass
        reader.found.clear()
        reader.visit(tree)
    return reader.found


class _Reader(ast.NodeVisitor):
    def __init__(self, file: str, classes: dict[str, dict[str, str]]) -> None:
        self.file, self.classes = file, classes
        self.found: list[Use] = []
        self.kept: dict[str, str] = {"_trt": MODULE, "_engine": "ICudaEngine", "_runtime": "Runtime"}
        self.returns = dict(RETURNS)
        self.scopes: list[dict[str, str]] = [{}]
        self.functions: list[ast.FunctionDef] = []

    # What an expression is: MODULE, the name of a class (one of its objects), `class NAME`, or nothing known.

    def type_of(self, node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return next((scope[node.id] for scope in reversed(self.scopes) if node.id in scope), "")
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return self.kept.get(node.attr, "")
            owner = self.type_of(node.value)
            if node.attr.startswith("_"):
                return ""
            if owner == MODULE:
                return f"class {node.attr}" if node.attr in self.classes else ""
            if owner.startswith("class "):
                return owner.removeprefix("class ")
            return self.classes.get(owner, {}).get(node.attr, "") if owner else ATTRIBUTES.get(node.attr, "")
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) > 1:
                name = node.args[1]
                text = name.value if isinstance(name, ast.Constant) else ""
                return self.type_of(ast.Attribute(value=node.args[0], attr=str(text)))
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            kind = self.type_of(node.func)
            return kind.removeprefix("class ") if kind else self.returns.get(called, "")
        if isinstance(node, ast.IfExp):
            return self.type_of(node.body) or self.type_of(node.orelse)
        return ""

    def use(self, owner: str, name: str, kind: str, node: ast.AST, arguments: int = 0) -> None:
        if owner and not name.startswith("_"):
            where = f"{self.file}:{getattr(node, 'lineno', 0)}"
            self.found.append(Use(owner.removeprefix("class "), name, kind, arguments, where))

    def bind(self, target: ast.AST, kind: str) -> None:
        if isinstance(target, ast.Name) and (kind or target.id in self.scopes[-1]):
            self.scopes[-1][target.id] = kind
        elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            self.kept[target.attr] = kind or self.kept.get(target.attr, "")

    # The walk.

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        scope: dict[str, str] = {}
        for argument in (*node.args.args, *node.args.kwonlyargs):
            if isinstance(argument.annotation, ast.Name) and argument.annotation.id == "Any":
                known = argument.arg in PARAMETERS or argument.arg in PLAIN
                assert known, f"{self.file}:{node.lineno}: say in usage.py what {argument.arg} is"
                scope[argument.arg] = PARAMETERS.get(argument.arg, "")
            elif argument.arg in PARAMETERS:
                scope[argument.arg] = ""  # something else of that name
        self.scopes.append(scope)
        self.functions.append(node)
        self.generic_visit(node)
        self.functions.pop()
        self.scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            kind = self.type_of(base)
            for item in node.body if kind else ():
                if isinstance(item, ast.FunctionDef):
                    self.use(kind, item.name, "override", item, len(item.args.args) - 1)
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        self.generic_visit(node)
        kind = self.type_of(node.value) if node.value else ""
        if kind and self.functions:
            self.returns[self.functions[-1].name] = kind

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for one, value in zip(target.elts, node.value.elts, strict=True):
                    self.bind(one, self.type_of(value))
            elif isinstance(target, ast.Tuple):
                for one in target.elts:  # logger, log = trt_logger(trt)
                    name = one.id if isinstance(one, ast.Name) else ""
                    self.bind(one, PARAMETERS.get(name, ""))
            else:
                self.bind(target, self.type_of(node.value))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        kind = "set" if isinstance(node.ctx, ast.Store) else "read"
        self.use(self.type_of(node.value), node.attr, kind, node)

    def visit_Call(self, node: ast.Call) -> None:
        for item in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.visit(item)
        function = node.func
        if isinstance(function, ast.Attribute):
            self.visit(function.value)
            owner = self.type_of(function.value)
            made = owner == MODULE and function.attr in self.classes
            count = len(node.args) + len(node.keywords)
            if any(isinstance(item, ast.Starred) for item in node.args):
                count = -1  # not known here
            self.use(owner, function.attr, "read" if made else "call", node, count)
        elif isinstance(function, ast.Name) and function.id in ("hasattr", "getattr"):
            owner = self.type_of(node.args[0])
            for name in self._names(node.args[1]):
                self.use(owner, name, "asked", node)
        else:
            self.visit(function)

    def _names(self, node: ast.AST) -> Iterator[str]:
        """The attribute that is asked for; where a variable holds it, every name in capitals in the function."""
        if isinstance(node, ast.Constant):
            yield str(node.value)
            return
        for inner in ast.walk(self.functions[-1]) if self.functions else ():
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and inner.value.isupper():
                yield inner.value
