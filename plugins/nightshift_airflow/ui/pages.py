"""The routes of our pages: who may see them, what they are asked for, where that is found.

Nobody gets anything without a login: a browser is sent to log in, a program is told 401. What belongs to a DAG is for whoever may
see that DAG.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, NamedTuple

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import get_user, requires_access_dag, requires_access_view
from airflow.models.dagrun import DagRun
from fastapi import Depends, FastAPI, HTTPException, Path, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from sqlalchemy import select
from starlette.exceptions import HTTPException as AnyHTTPException

from include.nightshift import nights, settings, usecase
from include.nightshift.errors import LakehouseError, NightError
from include.nightshift.features import docs
from include.nightshift.lakehouse import records, tables
from include.nightshift.promote import report as reports
from include.nightshift.usecase import UseCase
from nightshift_airflow.ui import dbt_page

DagId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.-]+$", max_length=250)]
Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
RunId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.~:+-]+$", max_length=250)]

# By name, so that tests can put others in their place.
sees_dag = requires_access_dag(method="GET")
sees_documentation = requires_access_view(AccessView.DOCS)

app = FastAPI(title="Nightshift", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(get_user)])

_NOTHING = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
_DOCUMENTATION = f"{_NOTHING}; script-src 'unsafe-inline' 'unsafe-eval'; img-src data:; font-src data:"
"""dbt's page is one script: it may run, and reach nobody, this server included."""


class Run(NamedTuple):
    """What a run was told."""

    partition_key: str | None
    conf: dict[str, Any] | None


def runs(session: SessionDep) -> Callable[[str, str], Run | None]:
    """Finds a run by the ids of its DAG and its own."""

    def find(dag_id: str, run_id: str) -> Run | None:
        asked = select(DagRun.partition_key, DagRun.conf).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
        found = session.execute(asked).one_or_none()
        return Run(*found) if found else None

    return find


def run_nights(dag_id: DagId, run_id: RunId, find: Annotated[Callable[[str, str], Run | None], Depends(runs)]) -> tuple[date, date]:
    """First and last night of a run; what it was told may be any text."""
    run = find(dag_id, run_id)
    if run is None:
        raise HTTPException(404, f"There is no run {run_id} of {dag_id}: it may have been deleted. Open a run from its DAG's page.")
    conf = run.conf or {}
    told = run.partition_key or (f"{conf.get('first_night')}..{conf['last_night']}" if "last_night" in conf else None)
    if told is None:
        raise HTTPException(404, "This run is of no night, so it built nothing with dbt. Open a run of a DAG that builds features.")
    try:
        return nights.parse_range(told, what="the run's night")
    except NightError as error:
        raise HTTPException(404, f"This run built nothing with dbt: {error}.") from error


def owner(dag_id: DagId) -> UseCase:
    """The use case that a DAG belongs to."""
    owners = [use_case for use_case in usecase.registered(settings.load()) if dag_id.startswith(f"{use_case.name}_")]
    if not owners:
        raise HTTPException(404, f"{dag_id} belongs to no use case of this installation. Open a run of a DAG that builds features.")
    return max(owners, key=lambda use_case: len(use_case.name))


@app.get("/dbt/{dag_id}/{run_id}", response_class=HTMLResponse, dependencies=[Depends(sees_dag)])
def dbt_results(use_case: Annotated[UseCase, Depends(owner)], ends: Annotated[tuple[date, date], Depends(run_nights)]) -> HTMLResponse:
    """What each model and test did when the run's nights were last built."""
    installed, last = settings.load(), ends[1]
    found = records.read(installed, tables.DBT_NODES, day=last, use_case=use_case.name)
    if not found:
        raise HTTPException(
            404,
            f"No dbt build that ends with night {last} is recorded. Run {use_case.name}_features for that night; if it was built in a "
            f"range, open the run of {use_case.name}_backfill that built it.",
        )
    page = dbt_page.render(use_case.title, found, documentation="../../docs" if docs.place(installed).exists() else None)
    return HTMLResponse(page, headers=_headers(_NOTHING))


@app.get("/gates/{dag_id}/{digest}", dependencies=[Depends(sees_dag), Depends(owner)])
def report(digest: Digest) -> FileResponse:
    """What the gates said of a candidate, with its model card."""
    page = reports.place(settings.load(), digest)
    if not page.exists():
        raise HTTPException(404, "There is no report of this digest here. Open it from the task gate of the training that wrote it.")
    return FileResponse(page, media_type="text/html", headers=_headers(_NOTHING))


@app.get("/docs", dependencies=[Depends(sees_documentation)])
def documentation() -> FileResponse:
    """dbt's own documentation of all models."""
    page = docs.place(settings.load())
    if not page.exists():
        raise HTTPException(404, "The documentation of the models was not written yet: `make docs` does.")
    return FileResponse(page, media_type="text/html", headers=_headers(_DOCUMENTATION))


@app.exception_handler(AnyHTTPException)
async def refused(request: Request, error: AnyHTTPException) -> Response:
    """Words for people where people ask; the login where they have none."""
    if "text/html" not in request.headers.get("accept", ""):
        return await http_exception_handler(request, error)
    if error.status_code == 401:
        return RedirectResponse(get_auth_manager().get_url_login(next_url=str(request.url)), status_code=307)
    return HTMLResponse(dbt_page.words(str(error.detail)), status_code=error.status_code, headers=_headers(_NOTHING))


@app.exception_handler(RequestValidationError)
async def misspelt(request: Request, error: RequestValidationError) -> Response:
    """Without what was asked, which FastAPI itself would repeat."""
    return await refused(request, HTTPException(422, "The address names no DAG and run. Open a run from its DAG's page."))


@app.exception_handler(LakehouseError)
async def unreadable(request: Request, error: LakehouseError) -> Response:
    """The records cannot be read: its message says what to do."""
    return await refused(request, HTTPException(503, str(error)))


def _headers(policy: str) -> dict[str, str]:
    # Not kept by the browser: whoever is logged out must not find it there.
    return {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
    }
