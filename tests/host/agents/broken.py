"""Cannot be imported."""

import nobody_has_this_module  # type: ignore[import-not-found]  # noqa: F401
