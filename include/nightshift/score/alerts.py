"""Alerts: the morning's list, the entities with the highest scores of the night, those already known left out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from include.nightshift.lakehouse import tables
from include.nightshift.lakehouse.session import literal, where

if TYPE_CHECKING:
    from include.nightshift.usecase import UseCase


def ranking(use_case: UseCase, nights: Sequence[date]) -> str:
    """The query behind the list: an entity stands with its highest-scored event; ties go to the smaller id.

    Compromised, and left out, are entities with a positive verdict reported in the last `compromised_for_days` nights
    up to this one.
    """
    key, entity = use_case.events.key, use_case.entity
    reach = min(nights) - timedelta(days=use_case.compromised_for_days - 1)
    # A verdict's event is at most its delay older; twice the window of late rows leaves room.
    oldest = reach - timedelta(days=use_case.label_delay_days + 2 * use_case.events.dedup_days)
    return f"""
with compromised as (
  select distinct v.day as reported, e.{entity}
  from {tables.silver(use_case.labels)} v join {tables.silver(use_case.events)} e on e.{key} = v.{key}
  where v.{use_case.target} = 1 and v.day between {literal(reach)} and {literal(max(nights))}
    and e.day between {literal(oldest)} and {literal(max(nights))}
),
eligible as (
  select s.*
  from {tables.scores(use_case)} s
  where s.role = 'champion' and {where({"s.day": nights})} and not exists (
    select 1 from compromised c
    where c.{entity} = s.{entity} and c.reported <= s.day and c.reported > date_sub(s.day, {use_case.compromised_for_days})
  )
),
best as (
  select * from eligible
  qualify row_number() over (partition by day, {entity} order by score desc, {key}) = 1
)
select day, cast(row_number() over (partition by day order by score desc, {entity}) as int) as rank,
  {entity}, score, {key}, reason_1, reason_2, reason_3, model_version,
  cast(null as int) as revision, cast(null as string) as mark, cast(null as string) as marked_because
from best
qualify rank <= {use_case.list_size}
"""
