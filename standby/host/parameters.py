"""A run's parameters, checked by the model that Prefect makes of a flow's function: once for all attempts in a host.

Prefect makes it anew for each, which is much of what a host does to begin one.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any

from prefect import Flow
from prefect._internal.pydantic.validated_func import ValidatedFunction
from prefect.utilities.callables import parameters_to_args_kwargs
from pydantic import ConfigDict


def check_quickly(flow: Flow[..., Any]) -> None:
    """Have ``flow.validate_parameters`` use one model. What it refuses, and what is no plain JSON, or refers to a
    block, Prefect checks in its own way, and says so in its own words."""
    stock = flow.validate_parameters

    @cache
    def model() -> ValidatedFunction:
        return ValidatedFunction(flow.fn, config=ConfigDict(arbitrary_types_allowed=True))

    def validate_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
        if all(map(_is_plain, parameters.values())):
            with suppress(Exception):
                args, kwargs = parameters_to_args_kwargs(flow.fn, parameters)
                return model().validate_call_args(args, kwargs)
        return stock(parameters)

    flow.validate_parameters = validate_parameters  # type: ignore[method-assign]


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return "$ref" not in value and all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool)
