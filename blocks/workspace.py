"""What a research agent can reach: whose pages, which documents, which database, which folder, which agents."""

from pathlib import Path

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from standby.settings import home

SAMPLE_DOCUMENTS = Path(__file__).resolve().parents[1] / "deployments" / "samples" / "documents"


class Workspace(Block):
    """What the tools of a research agent work on. Its scope says which of them it may use, and which it must ask about.

    The defaults reach no host of the web, the sample documents, the books of the invoice agent, the reports in the data
    folder, and no other agent.
    """

    _block_type_name = "Workspace"
    _block_type_slug = "workspace"
    _description = "What research agents can reach: hosts, documents, database, reports folder, other agents."

    hosts: list[str] = Field(
        default=[],
        title="Hosts",
        description="Whose pages may be fetched: example.org, *.example.org (those below it), or * (any public host).",
    )
    documents_folder: str = Field(
        default_factory=lambda: str(SAMPLE_DOCUMENTS),
        title="Documents folder",
        description="Whose documents may be searched and read: Markdown, text, HTML, CSV and JSON.",
    )
    database_url: SecretStr = Field(
        default_factory=lambda: SecretStr(f"sqlite:///{home() / 'books.db'}"),
        title="Database",
        description="SQLite or PostgreSQL that may be read, such as postgresql://reader:password@host/books. The role "
        "should have no other right, and must not be a superuser.",
    )
    reports_folder: str = Field(
        default_factory=lambda: str(home() / "reports"),
        title="Reports folder",
        description="Where files may be written. It is created.",
    )
    agents: list[str] = Field(
        default=[],
        title="Agents",
        description="Deployments that may be started for a part of the work, such as research-agent/research.",
    )
