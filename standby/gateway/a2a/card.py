"""The agent card: that there are agents here, and for who has a key which."""

from __future__ import annotations

from collections.abc import Sequence

from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentExtension,
    AgentInterface,
    AgentSkill,
    HTTPAuthSecurityScheme,
    SecurityRequirement,
    SecurityScheme,
    StringList,
)
from a2a.utils.constants import PROTOCOL_VERSION_1_0, TransportProtocol

from standby.agent_tasks import value_part
from standby.gateway.a2a import wire
from standby.gateway.agents import Agent

PATH = "/a2a"

PARAMETERS = "urn:standby:parameters"
"""The extension that has the JSON Schema of each agent's parameters, by the agent's name, in its ``params``."""

UNNAMED = AgentSkill(
    id="agents",
    name="Agents that wait",
    description="Durable agent runs, which may ask and wait. With a key the card names them.",
    tags=["standby"],
)


def card(base_url: str, agents: Sequence[Agent] | None) -> AgentCard:
    """The card of the gateway at this address; ``agents`` are None for who has no key."""
    kinds = ["application/json", "text/plain"]
    made = AgentCard(
        name="Standby",
        description="Agents that wait. A message starts a run of the agent that its metadata name as `agent` with the "
        "parameters in its data part; a message to a task that requires input is the answer.",
        version="1",
        supported_interfaces=[
            AgentInterface(
                url=base_url + PATH,
                protocol_binding=TransportProtocol.JSONRPC.value,
                protocol_version=PROTOCOL_VERSION_1_0,
            )
        ],
        capabilities=AgentCapabilities(streaming=True, push_notifications=True, extended_agent_card=True),
        security_schemes={
            "key": SecurityScheme(
                http_auth_security_scheme=HTTPAuthSecurityScheme(
                    scheme="Bearer", description="A key made by `standby keys add`."
                )
            )
        },
        security_requirements=[SecurityRequirement(schemes={"key": StringList()})],
        default_input_modes=kinds,
        default_output_modes=kinds,
        skills=[UNNAMED] if agents is None else [_skill(agent) for agent in agents],
    )
    if agents:
        schemas = {agent.name: agent.schema for agent in agents if "data" in value_part(agent.schema)}
        said = {"uri": PARAMETERS, "description": "JSON Schema of each agent's parameters.", "params": schemas}
        made.capabilities.extensions.append(wire.made(AgentExtension, said))
    return made


def _skill(agent: Agent) -> AgentSkill:
    return AgentSkill(id=agent.name, name=agent.name.partition("/")[0], description=agent.said, tags=agent.tags)
