"""Where an attempt runs: beside others in the host, or in a process of its own.

In the host runs what is an agent, has its code in the host's working folder, and asks for nothing that one process can
give only once: environment variables, another folder, a command, pull steps that fetch code. All else has a process
of its own, and there these settings mean what they always mean. Code is loaded once for each version of a deployment.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any, NamedTuple
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import MissingFlowError, ObjectNotFound, ScriptError
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.asyncutils import run_sync_in_worker_thread

from standby.errors import CodeNotLoaded, UsageError
from standby.flows import is_agent
from standby.host.configuration import HostConfiguration, Isolation
from standby.host.parameters import check_quickly
from standby.projection import UNREAD

log = logging.getLogger("standby.host")

DEPLOYMENT_SECONDS = 1.0
"""How long a deployment that was read counts as today's."""

FAILED_SECONDS = 1.0
"""How long code that could not be loaded counts as that: all that were to run it meanwhile are told the same."""

SET_FOLDER = "prefect.deployments.steps.set_working_directory"


class Placement(NamedTuple):
    """``flow`` to run here; None for a process of its own, and then ``why``."""

    flow: Flow[..., Any] | None
    why: str = ""


class Placing:
    """``pool`` gives the work pool as it is now."""

    def __init__(self, client: PrefectClient, pool: Callable[[], WorkPool]) -> None:
        self._client, self._pool = client, pool
        self._folder = Path.cwd().resolve()
        self._deployments: dict[UUID, tuple[float, asyncio.Future[DeploymentResponse]]] = {}
        self._flow_names: dict[UUID, str] = {}
        self._code: dict[UUID, tuple[str, asyncio.Future[Placement]]] = {}
        self._failures: dict[UUID, tuple[float, str]] = {}  # of deployments that could not be loaded: when, and why
        self._loading = asyncio.Lock()

    async def of(self, flow_run: FlowRun) -> Placement:
        """Where an attempt of this run goes.

        Raises ``UsageError`` when its deployment is gone, or says ``isolation: shared`` and that cannot be, and
        ``CodeNotLoaded``, which the log has then.
        """
        assert flow_run.deployment_id is not None
        try:
            deployment = await self._deployment(flow_run.deployment_id)
        except ObjectNotFound:
            raise UsageError(
                f"The deployment {flow_run.deployment_id} of this run was deleted in Prefect, so nobody can run it. "
                "Deploy the agent again, and start another run."
            ) from None
        version = _version_of(deployment)
        wanted = {**(deployment.job_variables or {}), **(flow_run.job_variables or {})}
        isolation = _isolation(wanted.pop("isolation", None) or Isolation.AUTO)
        configuration: HostConfiguration = await HostConfiguration.from_template_and_values(
            base_job_template=self._pool().base_job_template, values=wanted, client=self._client
        )
        if isolation is Isolation.AUTO:  # else it is the deployment's word, also in a pool of another type
            isolation = configuration.isolation
        why = self._why_apart(deployment, configuration)
        if isolation is Isolation.PROCESS:
            return Placement(None, why or "its deployment says so")
        if not why:
            placement = await self._loaded(deployment, version)
            why = placement.why
        if why and isolation is Isolation.SHARED:
            name = await self._name(deployment)
            raise UsageError(
                f"Deployment {name!r} says isolation: shared, but {why}. Take that away, or the isolation."
            )
        return Placement(None, why) if why else placement

    def unfit(self, run: str, flow: str, deployment_id: UUID | None, error: BaseException) -> str:
        """That the parameters of this run are not those which its code takes, in a sentence."""
        _, found = self._deployments.get(deployment_id, (0.0, None)) if deployment_id is not None else (0.0, None)
        known = found is not None and found.done() and not found.cancelled() and found.exception() is None
        name = f"{flow}/{found.result().name}" if found is not None and known else str(deployment_id)
        return (
            f"Run {run} of deployment {name!r} cannot be begun, for its parameters do not fit: {error} "
            "Start another with those that the agent takes, or correct the agent and retry it."
        )

    def forget_deployments(self) -> None:
        """Ask for each again when it is next needed."""
        self._deployments.clear()

    async def _deployment(self, deployment_id: UUID) -> DeploymentResponse:
        """Asked for once by all that begin at the same time."""
        at, found = self._deployments.get(deployment_id, (0.0, None))
        if found is None or monotonic() - at > DEPLOYMENT_SECONDS or (found.done() and found.exception()):
            found = asyncio.ensure_future(self._read(deployment_id))
            self._deployments[deployment_id] = (monotonic(), found)
        return await asyncio.shield(found)

    async def _read(self, deployment_id: UUID) -> DeploymentResponse:
        """Raises ``ObjectNotFound`` only when Prefect's own list is without it: one 404 may be a proxy's."""
        try:
            return await self._client.read_deployment(deployment_id)
        except (ObjectNotFound, JSONDecodeError):
            only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id]))
            found = await self._client.read_deployments(deployment_filter=only)
            if not found:
                raise ObjectNotFound(LookupError(f"There is no deployment {deployment_id}.")) from None
            return found[0]

    async def _name(self, deployment: DeploymentResponse) -> str:
        """``flow/deployment``, for others may have its own name; that alone where Prefect cannot be asked."""
        if deployment.flow_id not in self._flow_names:
            try:
                self._flow_names[deployment.flow_id] = (await self._client.read_flow(deployment.flow_id)).name
            except UNREAD:
                return deployment.name
        return f"{self._flow_names[deployment.flow_id]}/{deployment.name}"

    def _why_apart(self, deployment: DeploymentResponse, configuration: HostConfiguration) -> str:
        """Why it needs a process of its own; empty if it does not, as far as can be told without its code."""
        other = sorted(name for name, value in configuration.env.items() if os.environ.get(name) != value)
        folder = self._folder_of(deployment)
        if other:
            return f"it sets environment variables that this host does not have: {', '.join(other)}"
        if configuration.working_dir is not None and configuration.working_dir.resolve() != self._folder:
            return f"its working folder is {configuration.working_dir}, this host's is {self._folder}"
        if configuration.command_of_its_own:
            return f"it has a command: {configuration.command}"
        if deployment.storage_document_id is not None or folder is None:
            return "its code is fetched from elsewhere"
        if folder != self._folder:
            return f"its code is in {folder}, this host works in {self._folder}"
        if deployment.entrypoint is None or ":" not in deployment.entrypoint:
            return "its entrypoint is no file"
        if deployment.global_concurrency_limit is not None:
            return "its concurrency is limited"
        return ""

    def _folder_of(self, deployment: DeploymentResponse) -> Path | None:
        """Where its code is on this machine; None where it has to be fetched."""
        folder = deployment.path or "."
        for step in deployment.pull_steps or []:
            [(name, options)] = step.items()
            if name != SET_FOLDER:
                return None
            folder = options["directory"]
        return Path(folder).resolve()

    async def _loaded(self, deployment: DeploymentResponse, version: str) -> Placement:
        known, found = self._code.get(deployment.id, ("", None))
        has_failed = found is not None and found.done() and (found.cancelled() or found.exception())
        if has_failed and monotonic() - self._failures.get(deployment.id, (0.0, ""))[0] < FAILED_SECONDS:
            has_failed = False
        if found is None or known != version or has_failed:
            anew = found is not None and known != version
            if anew:
                # Its modules are the others' modules, too: each deployment is loaded from the same ones as all others.
                self._code.clear()
            found = asyncio.ensure_future(self._load(deployment, anew=anew))
            self._code[deployment.id] = (version, found)
        return await asyncio.shield(found)

    async def _load(self, deployment: DeploymentResponse, *, anew: bool) -> Placement:
        async with self._loading:
            if str(self._folder) not in sys.path:
                sys.path.insert(0, str(self._folder))
            if anew:
                log.info("Deployment %s has changed: its code is loaded anew.", await self._name(deployment))
                self._forget_modules()
            entrypoint = str(self._folder / (deployment.entrypoint or ""))
            load = partial(load_flow_from_entrypoint, entrypoint, use_placeholder_flow=False)
            try:
                with self._modules_kept():
                    flow = await run_sync_in_worker_thread(load)
            except (ScriptError, MissingFlowError) as error:
                failed = _not_loaded(
                    await self._name(deployment),
                    deployment.entrypoint or "",
                    Path(entrypoint.rpartition(":")[0]),
                    error,
                )
                _, said = self._failures.get(deployment.id, (0.0, ""))
                self._failures[deployment.id] = monotonic(), str(failed)
                log.error("%s", failed, exc_info=failed.raised if said != str(failed) else None)
                raise failed from error
            except (SystemExit, KeyboardInterrupt) as error:  # which would end the host
                raise UsageError(f"{deployment.entrypoint} raises {error!r} when it is loaded. Correct it.") from error
        self._failures.pop(deployment.id, None)
        if not is_agent(flow):
            return Placement(None, "it is no agent")
        check_quickly(flow)
        return Placement(flow)

    def _own_modules(self, *, but: Mapping[str, ModuleType] | None = None) -> list[tuple[str, ModuleType]]:
        """The project's own, without those of ``but``."""
        installed = Path(sys.prefix).resolve()
        found = []
        for name, module in list(sys.modules.items()):
            # A folder without __init__.py has no file, and knows the modules in it all the same.
            file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
            if file is None or name == "__main__" or name.partition(".")[0] == "standby":
                continue
            if but is not None and but.get(name) is module:
                continue
            path = Path(file).resolve()
            if path.is_relative_to(self._folder) and not path.is_relative_to(installed):
                found.append((name, module))
        return found

    def _forget_modules(self) -> None:
        """Runs that are under way keep what they have."""
        for name, _ in self._own_modules():
            del sys.modules[name]

    @contextmanager
    def _modules_kept(self) -> Iterator[None]:
        """A load that fails leaves the modules as they were: what it was the first to import, the next try imports
        anew, for it may be mended there; what was there before is the others' as well."""
        before = dict(sys.modules)
        try:
            yield
        except BaseException:
            for name, module in self._own_modules(but=before):
                package, _, own = name.rpartition(".")
                if vars(sys.modules.get(package, module)).get(own) is module:
                    delattr(sys.modules[package], own)  # else the package would still give it to who imports it
                del sys.modules[name]
                if name in before:
                    sys.modules[name] = before[name]
            importlib.invalidate_caches()
            raise


def _not_loaded(name: str, entrypoint: str, file: Path, error: ScriptError | MissingFlowError) -> CodeNotLoaded:
    if isinstance(error, MissingFlowError):
        return CodeNotLoaded(name, entrypoint, str(error).strip().rstrip("."))
    raised = error.user_exc
    if not file.exists():
        return CodeNotLoaded(name, entrypoint, f"there is no file {file}")
    trace = raised.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != str(file):
        trace = trace.tb_next  # what has loaded it is of no interest; a file that cannot be parsed has no frame
    return CodeNotLoaded(
        name, entrypoint, f"{type(raised).__name__}: {raised}", raised.with_traceback(trace) if trace else None
    )


def _isolation(said: Any) -> Isolation:
    try:
        return Isolation(said)
    except ValueError:
        raise UsageError(f"isolation is auto, shared or process, not {said!r}. Correct the deployment.") from None


def _version_of(deployment: DeploymentResponse) -> str:
    """What its code depends on. The file's time is part of it: a stock worker, too, runs what is there."""
    file = Path(deployment.path or ".") / (deployment.entrypoint or "").rpartition(":")[0]
    try:
        changed = file.stat().st_mtime_ns
    except OSError:
        changed = 0
    told = (deployment.entrypoint, deployment.path, deployment.pull_steps, deployment.version, changed)
    return json.dumps([*told, str(deployment.version_id)], default=str)
