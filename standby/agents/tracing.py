"""Spans of all attempts of an agent in one trace: its context is kept in the journal."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_propagator = TraceContextTextMapPropagator()


def new_trace() -> dict[str, str]:
    """The W3C trace context that the agent's spans join: that of the span under way, else one of its own."""
    carrier: dict[str, str] = {}
    if trace.get_current_span().get_span_context().is_valid:
        _propagator.inject(carrier)
        return carrier
    return {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"}


@contextmanager
def joined(carrier: dict[str, str]) -> Iterator[None]:
    """Spans that begin here join the trace."""
    token = context.attach(_propagator.extract(carrier)) if carrier else None
    try:
        yield
    finally:
        if token is not None:
            context.detach(token)
