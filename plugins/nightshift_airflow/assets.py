"""The assets that nights travel on: one event per night and table, the table's version in its `extra`."""

from __future__ import annotations

from airflow.sdk import Asset, AssetAlias

from include.nightshift.usecase import Feed, UseCase


def silver(use_case: UseCase, feed: Feed) -> Asset:
    return _table(use_case, "silver", feed.name)


def features(use_case: UseCase) -> Asset:
    return _table(use_case, "gold", f"{use_case.name}_features")


def scores(use_case: UseCase) -> Asset:
    return _table(use_case, "gold", f"{use_case.name}_scores")


def retrain_requests(use_case: UseCase) -> Asset:
    """Told when a request was filed. An event may come twice or late, so whoever is woken by it reads the table."""
    return Asset(
        name=f"ops.retrain_requests.{use_case.name}", uri=f"nightshift://ops/retrain_requests/{use_case.name}", group=use_case.name
    )


def filed_requests(use_case: UseCase) -> AssetAlias:
    """What a watch may publish to: unlike an outlet of its own, an alias tells nobody unless a request was filed."""
    return AssetAlias(name=f"ops.retrain_requests.{use_case.name}.filed", group=use_case.name)


def _table(use_case: UseCase, schema: str, name: str) -> Asset:
    return Asset(name=f"{schema}.{name}", uri=f"nightshift://{schema}/{name}", group=use_case.name)
