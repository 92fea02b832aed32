"""Expressions of statements: a small, closed part of Python over the measures of
`benchmarks.studies.statements.measures`.

``drop('haq', tight)``, ``max(mean('bsq', tight), 50) - 1``, ``ratio('haq_speedup') > 1``: numbers,
texts, names, calls of the functions that there are, arithmetic and comparisons. Nothing else is
read, so that a page of text cannot run code.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_BUILT_IN: dict[str, Callable[..., Any]] = {"max": max, "min": min, "abs": abs, "round": round}


class BadExpression(ValueError):
    """An expression cannot be read or has no value; the message quotes it."""


def evaluate(
    text: str, functions: Mapping[str, Callable[..., Any]], names: Mapping[str, Any]
) -> Any:
    """The value of an expression.

    Args:
        text: the expression.
        functions: what may be called, beside ``max``, ``min``, ``abs`` and ``round``.
        names: what else has a name.

    Raises:
        BadExpression: it is none, or a function has no value for its arguments.
    """
    known = {**_BUILT_IN, **functions}

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() | str() as constant):
                return constant
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return -value(inner)
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                return not value(inner)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
                return _BINARY[type(sign)](value(left), value(right))
            case ast.Compare(left=first, ops=signs, comparators=others):
                return _compared(value(first), signs, [value(other) for other in others])
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in known:
                return known[name](*(value(arg) for arg in args))
        raise BadExpression(
            f"{ast.unparse(node)!r} is not known; the functions are {', '.join(sorted(known))}, "
            f"the names {', '.join(sorted(names))}"
        )

    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, LookupError, ValueError, TypeError, ArithmeticError, OSError) as error:
        raise BadExpression(f"{text.strip()!r}: {error}") from error


def _compared(first: Any, signs: list[ast.cmpop], others: list[Any]) -> bool:
    found = True
    for sign, other in zip(signs, others, strict=True):
        if type(sign) not in _COMPARED:
            raise BadExpression("compare with <, <=, >, >=, == and != only")
        found, first = found and _COMPARED[type(sign)](first, other), other
    return found
