"""Start the invoice agent on each sample invoice, once; prints a JSON line with the run of each."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from prefect.deployments import arun_deployment

SAMPLES = Path(__file__).parent / "samples" / "invoices"


async def main() -> None:
    for path in sorted(SAMPLES.glob("*.xml")):
        run = await arun_deployment(
            "invoice-agent/invoices",
            parameters={"path": str(path)},
            idempotency_key=f"sample-{path.name}",
            timeout=0,
            as_subflow=False,
        )
        print(json.dumps({"run_id": str(run.id), "file": path.name}))


if __name__ == "__main__":
    asyncio.run(main())
