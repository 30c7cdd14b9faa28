"""Make what deployments need on a Prefect server: the work pool and the blocks. Safe to run again.

    python -m deployments.bootstrap            then: prefect deploy --all
    python -m deployments.bootstrap --deploy   does both

Set ``PREFECT_API_URL`` to the server, and ``STANDBY_LEDGER_URL`` to the ledger its workers share; the address is saved
in the block ``checkpoint-store/standby``, where workers on other machines find it. With ``STANDBY_GATEWAY_URL`` set, a
sandbox bank on this machine is told to report there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import runpy
import sys

from prefect import get_client
from prefect.blocks.core import Block
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from pydantic import SecretStr

from blocks.books import Books
from blocks.model_endpoint import ModelEndpoint
from blocks.payment_policy import PaymentPolicy
from blocks.payment_provider import PaymentProvider
from blocks.workspace import Workspace
from deployments.bank_reports import SOURCE, bank_source, tell_bank
from deployments.sandbox_bank.place import difference
from standby.checkpoints import STORE_NAME, CheckpointStore
from standby.up.block_types import register_block_types
from tasks.research_scope import SHIPPED, research_scope

WORK_POOL = "agents"


async def bootstrap() -> None:
    """Create what is missing; leave what people have edited alone."""
    async with get_client() as client:
        try:
            await client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
            print(f"Work pool {WORK_POOL} made.")
        except ObjectAlreadyExists:
            print(f"Work pool {WORK_POOL} is there.")
        await register_block_types(client)
    ledger_url = os.environ.get("STANDBY_LEDGER_URL", "")
    store = CheckpointStore(ledger_url=SecretStr(ledger_url))
    await _save(store, STORE_NAME, overwrite=bool(ledger_url))
    await _save(PaymentPolicy(), "default")
    await _save(PaymentProvider(), "default")
    if said := difference(await PaymentProvider.aload("default")):
        print(f"Note: {said}")
    await _save(ModelEndpoint(), "default")
    await _save(research_scope(), SHIPPED)
    # Its defaults are folders of the machine that runs the agent, so no document is saved, only the type.
    await Books.aregister_type_and_schema()
    await Workspace.aregister_type_and_schema()
    await _save(bank_source(), SOURCE)
    if (gateway_url := os.environ.get("STANDBY_GATEWAY_URL")) and (said := await tell_bank(gateway_url)):
        print(said)


async def _save(block: Block, name: str, *, overwrite: bool = False) -> None:
    slug = f"{block.get_block_type_slug()}/{name}"
    try:
        await block.asave(name, overwrite=overwrite)
        print(f"Block {slug} saved.")
    except ValueError:
        print(f"Block {slug} is there.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the work pool and the blocks on the Prefect server.")
    parser.add_argument("--deploy", action="store_true", help="then deploy everything in prefect.yaml")
    arguments = parser.parse_args()
    asyncio.run(bootstrap())
    if arguments.deploy:
        # `prefect --no-prompt deploy --all`, in this process: another one would import all of Prefect again.
        sys.argv = ["prefect", "--no-prompt", "deploy", "--all"]
        runpy.run_module("prefect", run_name="__main__")


if __name__ == "__main__":
    main()
