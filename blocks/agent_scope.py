"""What a model-driven agent may do, as people edit it in the Prefect UI: the library's own block."""

from standby.agents.block import AgentScope, scope_named

__all__ = ["AgentScope", "scope_named"]
