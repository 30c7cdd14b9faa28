"""A statement that is compiled once.

SQLAlchemy 2.0 compiles an INSERT with ON CONFLICT anew each time it is executed (2.1 caches it), which takes 0.4 ms: as
much as the write itself, and a run writes at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, bindparam, column, func
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine


class Prepared:
    """``sql`` in the driver's own style, and ``values`` for its parameters."""

    def __init__(self, statement: ClauseElement, dialect: Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect)
        self.sql = str(compiled)
        self._names: list[str] = compiled.positiontup
        self._constants: dict[str, Any] = compiled.params
        to_driver = {
            name: bind.type.dialect_impl(dialect).bind_processor(dialect) for bind, name in compiled.bind_names.items()
        }
        self._to_driver = {name: convert for name, convert in to_driver.items() if convert is not None}

    async def many(self, connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> int:
        """Execute it for each of the rows, in one trip. Returns how many rows a single one has changed."""
        if not rows:
            return 0
        values = [self.values(row) for row in rows]
        result = await connection.exec_driver_sql(self.sql, values if len(values) > 1 else values[0])
        return result.rowcount

    def values(self, parameters: dict[str, Any]) -> tuple[Any, ...]:
        """The parameters as the driver takes them. All that the statement leaves open must be given."""
        values = self._constants | parameters
        for name, convert in self._to_driver.items():
            values[name] = convert(values[name])
        return tuple(values[name] for name in self._names)


def given(table: Any, *names: str) -> dict[str, Any]:
    """Values of these columns that the statement leaves open."""
    return {name: bindparam(name, type_=table.c[name].type) for name in names}


def unnested(name: str, /, **types: TypeEngine[Any]) -> TableValuedAlias:
    """Rows that the statement leaves open, as PostgreSQL takes them: for each column an array of its values, which is a
    parameter ``{column}s``."""
    arrays = (bindparam(f"{each}s", type_=ARRAY(type_)) for each, type_ in types.items())
    columns = (column(each, type_) for each, type_ in types.items())
    return func.unnest(*arrays).table_valued(*columns, name=name).render_derived()
