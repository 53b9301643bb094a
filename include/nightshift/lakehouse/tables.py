"""Every table once: its grain, its columns with types and comments, and which of them are clocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.nightshift.lakehouse import session as lakehouse
from include.nightshift.usecase import Feed, UseCase

if TYPE_CHECKING:
    import pyarrow as pa

# Time travel is refused beyond these two, whatever files exist; Delta's own defaults (30 and 7 days) would lose old nights.
# The rest keeps every reader able to read: no deletion vectors, no column mapping, no v2 checkpoints.
PROPERTIES = {
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
    "delta.enableDeletionVectors": "false",
    "delta.columnMapping.mode": "none",
    "delta.checkpointPolicy": "classic",
}


@dataclass(frozen=True)
class TableColumn:
    """One column. A `clock` says when something was done, not what: content hashes leave it out.

    `later` is filled in after the row was written: no seal covers it (`lakehouse.chain`).
    """

    name: str
    type: str
    comment: str
    clock: bool = False
    later: bool = False

    def ddl(self) -> str:
        return f"{self.name} {self.type} comment {lakehouse.literal(self.comment)}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table; `comment` ends with the grain. Partitioned by `day` where a row belongs to a night."""

    schema: str
    name: str
    comment: str
    columns: tuple[TableColumn, ...]
    partition: tuple[str, ...] = ("day",)
    """Writers of different partitions never conflict: a second column keeps apart what is written side by side."""

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def is_record(self) -> bool:
        """Whether it is the platform's own, written by `lakehouse.records` (delta-rs) and never by Spark."""
        return self.schema == "ops"

    @property
    def content(self) -> list[str]:
        """The columns that a content hash covers."""
        return [column.name for column in self.columns if not column.clock]

    @property
    def is_chained(self) -> bool:
        """Whether each row is sealed together with the one before it, so that none can be changed or taken away unseen."""
        return "seal" in self.names

    @property
    def sealed(self) -> list[str]:
        """The columns that a row's seal covers: also its clocks, because nobody may say afterwards that it was another moment."""
        return [column.name for column in self.columns if column.name != "seal" and not column.later]

    def arrow(self, records: Iterable[Mapping[str, Any]]) -> pa.Table:
        """Records as an Arrow table of these columns and types; columns a record lacks are null."""
        import pyarrow as pa

        types = {
            "string": pa.string(),
            "bigint": pa.int64(),
            "int": pa.int32(),
            "double": pa.float64(),
            "boolean": pa.bool_(),
            "date": pa.date32(),
            "timestamp": pa.timestamp("us", tz="UTC"),
        }

        def typed(name: str) -> pa.DataType:
            return pa.decimal128(*map(int, name[8:-1].split(","))) if name.startswith("decimal(") else types[name]

        schema = pa.schema([(column.name, typed(column.type)) for column in self.columns])
        return pa.Table.from_pylist([{name: record.get(name) for name in schema.names} for record in records], schema=schema)

    def ddl(self) -> str:
        """`create table if not exists …`."""
        columns = ",\n  ".join(column.ddl() for column in self.columns)
        partition = f"\npartitioned by ({', '.join(self.partition)})" if self.partition else ""
        properties = ", ".join(f"'{key}' = '{value}'" for key, value in PROPERTIES.items())
        comment = lakehouse.literal(self.comment)
        return (
            f"create table if not exists {self} (\n  {columns}\n)\nusing delta{partition}\ncomment {comment}\ntblproperties ({properties})"
        )


_DAY = TableColumn("day", "date", "The night: the drop that brought the row.")
_USE_CASE = TableColumn("use_case", "string", "The use case.")
_KNOWN_AT = TableColumn("known_at", "timestamp", "When the row was known: the midnight UTC that ends its night's day.")
_PROVENANCE = (
    TableColumn("_source", "string", "The landed file, below the landing folder."),
    TableColumn("_row", "bigint", "The row in the file, header not counted, from 1."),
    TableColumn("_line", "bigint", "The line on which it begins, from 1; null where the format has none, or its quoting leaves it open."),
    TableColumn("_batch", "string", "SHA-256 of the landed file."),
)
_REASONS = tuple(
    TableColumn(f"reason_{n}", "string", f"The feature that pushed the score up {word}; null where none did, or far below the list.")
    for n, word in ((1, "most"), (2, "second most"), (3, "third most"))
)
# Chained tables end with these. A later version adds its columns after them: a seal passes over nulls.
_CHAIN = (
    TableColumn("seq", "bigint", "The row's place in the chain, from 1; null where an earlier version wrote it, until the next row comes."),
    TableColumn("before", "string", "The seal of the row before; empty for the first."),
    TableColumn("seal", "string", "SHA-256 over the row and the seal before: `make chain` tells whether it still holds."),
)


def bronze(feed: Feed) -> Table:
    return Table(
        schema="bronze",
        name=feed.name,
        comment=f"{feed.description} As it came, all text. One row per row of a landed file.",
        columns=(
            _DAY,
            *(TableColumn(column.name, "string", column.comment) for column in feed.columns),
            *_PROVENANCE,
            TableColumn("_malformed", "string", "Why the row could not be parted into columns; null where it could."),
            TableColumn("_text", "string", "Such a row as it came; null for others."),
            TableColumn("_ingested_at", "timestamp", "When it was ingested.", clock=True),
        ),
    )


def silver(feed: Feed) -> Table:
    return Table(
        schema="silver",
        name=feed.name,
        comment=f"{feed.description} Typed and checked. One row per {feed.key}.",
        columns=(_DAY, *(TableColumn(column.name, column.type, column.comment) for column in feed.columns), _KNOWN_AT),
    )


QUARANTINE = Table(
    schema="silver",
    name="quarantine",
    comment="Rows that broke a rule, as they came. One row per rejected row.",
    partition=("day", "feed"),
    columns=(
        _DAY,
        TableColumn("feed", "string", "The feed."),
        TableColumn("rule", "string", "The first rule it broke."),
        TableColumn("reason", "string", "What was seen and what was expected."),
        TableColumn("raw", "string", "The row as it came: JSON by column, or the text of the line where it could not be parted."),
        *_PROVENANCE,
        TableColumn("quarantined_at", "timestamp", "When it was rejected.", clock=True),
        TableColumn("released_at", "timestamp", "When it was judged again and passed; null while it waits.", clock=True),
    ),
)

PSEUDONYMS = Table(
    schema="silver",
    name="pseudonyms",
    comment="Who is who in analyst.*: not for analysts. One row per personal column and value.",
    partition=("column_name",),
    columns=(
        TableColumn("column_name", "string", "The personal column."),
        TableColumn("value", "string", "The value, as text; a time in microseconds since 1970, UTC."),
        TableColumn("pseudonym", "string", "HMAC-SHA256 of the value, in hexadecimal; the key lies outside the lake."),
        TableColumn("key_check", "string", "Names the key without telling it."),
    ),
)


def features(use_case: UseCase) -> Table:
    events = {column.name: column for column in use_case.events.columns}
    ids = [
        use_case.events.key,
        *(name for name in events if name.endswith("_id") and name != use_case.events.key),
        use_case.events.event_time,
    ]
    return Table(
        schema="gold",
        name=f"{use_case.name}_features",
        comment=f"What models read, from what was known when the night ended. One row per {use_case.events.key}.",
        columns=(
            _DAY,
            *(TableColumn(name, events[name].type, events[name].comment) for name in ids),
            *(TableColumn(feature.name, "double", feature.comment) for feature in use_case.features),
            _KNOWN_AT,
        ),
    )


def scores(use_case: UseCase) -> Table:
    return Table(
        schema="gold",
        name=f"{use_case.name}_scores",
        comment=f"How suspicious each event was to the night's models. One row per {use_case.events.key} and model role.",
        partition=("day", "role"),
        columns=(
            _DAY,
            TableColumn(use_case.events.key, "bigint", "The event scored."),
            TableColumn(use_case.entity, "bigint", "Whose it is."),
            TableColumn("role", "string", "champion or challenger."),
            TableColumn("score", "double", "Probability, 0..1, as the model sees it."),
            TableColumn("model_version", "string", "Version in the model registry."),
            TableColumn("features_version", "bigint", "Version of the features table that was scored.", clock=True),
            *_REASONS,
            TableColumn("scored_at", "timestamp", "When it was scored.", clock=True),
        ),
    )


def alerts(use_case: UseCase) -> Table:
    return Table(
        schema="gold",
        name=f"{use_case.name}_alerts",
        comment=f"The morning's list, {use_case.list_size} long. One row per rank and night.",
        columns=(
            _DAY,
            TableColumn("rank", "int", "1 is looked at first."),
            TableColumn(use_case.entity, "bigint", "Whom to look at."),
            TableColumn("score", "double", "The highest score of the night."),
            TableColumn(use_case.events.key, "bigint", "The event that has it."),
            *_REASONS,
            TableColumn("model_version", "string", "Version in the model registry."),
            # Last, as they are in tables of an earlier version.
            TableColumn("revision", "int", "How often the night's list was published by then; null from before lists were numbered."),
            TableColumn("mark", "string", "stale, fallback, baseline, odd or anyway; null where nothing was wrong."),
            TableColumn("marked_because", "string", "Why it bears a mark, or was published again; null where nothing was wrong."),
        ),
    )


PERFORMANCE = Table(
    schema="ops",
    name="performance",
    comment="How the champion did, once the verdicts were in. One row per night scored, model, cohort and metric.",
    columns=(
        _DAY,
        _USE_CASE,
        TableColumn("judged_on", "date", "The night in whose run it was measured."),
        TableColumn("model_version", "string", "The model that scored the night."),
        TableColumn("cohort", "string", "night: this night alone; week: a fold of the nights that end with it, by the published protocol."),
        TableColumn("metric", "string", "average_precision, roc_auc, card_precision, rows or frauds."),
        TableColumn("value", "double", "The figure; null where it is not defined (no fraud among the rows)."),
        TableColumn("low", "double", "Lower 95 % bound; null where none was computed."),
        TableColumn("high", "double", "Upper 95 % bound; null where none was computed."),
        TableColumn("labels_matured", "bigint", "Verdicts it rests on."),
        TableColumn("estimated", "boolean", "True where no verdict was used."),
    ),
)
DRIFT_METRICS = Table(
    schema="ops",
    name="drift_metrics",
    comment="Distance between a night and the rows its champion was judged on. One row per night, column and measure.",
    columns=(
        _DAY,
        _USE_CASE,
        TableColumn("model_version", "string", "The champion whose held-out rows are the reference."),
        TableColumn("column_name", "string", "A feature, or score."),
        TableColumn("measure", "string", "psi: population stability index."),
        TableColumn("value", "double", "The distance; null where it is unknown."),
        TableColumn("threshold", "double", "Above it the verdict is drifted."),
        TableColumn("verdict", "string", "stable, drifted or unknown."),
    ),
)
RETRAIN_REQUESTS = Table(
    schema="ops",
    name="retrain_requests",
    comment="Who or what asked for a new model, and what became of it. One row per request.",
    partition=(),
    columns=(
        TableColumn("request_id", "string", "Names the request; the same evidence gives the same name."),
        _USE_CASE,
        TableColumn("night", "date", "The night whose evidence asked."),
        TableColumn("cause", "string", "performance, or the word of whoever asked."),
        TableColumn("evidence", "string", "JSON: the figures seen and expected."),
        TableColumn("state", "string", "open, claimed, done or refused."),
        TableColumn("outcome", "string", "What became of it, in words."),
        TableColumn("requested_at", "timestamp", "When it was filed.", clock=True),
        TableColumn("claimed_at", "timestamp", "When a training run took it.", clock=True),
        TableColumn("closed_at", "timestamp", "When it was done or refused.", clock=True),
        TableColumn("question", "string", "JSON: what the new model is asked to show, settled when it was filed."),
    ),
)
TRAINING_ATTEMPTS = Table(
    schema="ops",
    name="training_attempts",
    comment="Machines that trained. One row per run and attempt.",
    partition=(),
    columns=(
        TableColumn("run_id", "string", "The training run."),
        TableColumn("attempt", "int", "From 1."),
        _USE_CASE,
        TableColumn("pool", "string", "Where machines come from."),
        TableColumn("machine", "string", "The machine (a process on the local pool)."),
        TableColumn("kind", "string", "Its type."),
        TableColumn("zone", "string", "Its zone."),
        TableColumn("on_demand", "boolean", "Whether it was paid at the on-demand price, and could not be taken away."),
        TableColumn("started_at", "timestamp", "When it started."),
        TableColumn("ended_at", "timestamp", "When it ended."),
        TableColumn("outcome", "string", "finished, preempted, cancelled, out_of_memory or failed."),
        TableColumn("seconds", "double", "From start to end."),
        TableColumn("lost_seconds", "double", "Work since the last complete checkpoint, lost with the machine."),
        TableColumn("cost", "double", "Price of the machine's time, in the pool's currency."),
        TableColumn("on_demand_cost", "double", "What the same time costs on demand."),
    ),
)
GATE_REPORTS = Table(
    schema="ops",
    name="gate_reports",
    comment="Candidates judged. One row per report.",
    partition=(),
    columns=(
        TableColumn("report_digest", "string", "SHA-256 over model, data versions, policy and verdicts."),
        _USE_CASE,
        TableColumn("run_id", "string", "The training run."),
        TableColumn("model_version", "string", "The candidate."),
        TableColumn("champion_version", "string", "Whom it was compared with; null where there was no champion."),
        TableColumn("as_of", "date", "The last night that was known."),
        TableColumn("holdout_first", "date", "First night judged on."),
        TableColumn("holdout_last", "date", "Last night judged on."),
        TableColumn("versions", "string", "JSON: table versions that were read."),
        TableColumn("verdicts", "string", "JSON: each gate's verdict, reasons and figures."),
        TableColumn("figures", "string", "JSON: the metrics of both models on the held-out rows."),
        TableColumn("passed", "boolean", "Whether all gates passed."),
        TableColumn("judged_at", "timestamp", "When it was judged.", clock=True),
        # From here on as they came to tables of an earlier version.
        TableColumn("question", "string", "What was asked: improve, refresh, recover or first."),
        TableColumn("recipe", "string", "The candidate's recipe."),
        TableColumn("model_sha256", "string", "SHA-256 of the candidate's files."),
        TableColumn("champion_sha256", "string", "SHA-256 of the champion's files; null where there was no champion."),
        TableColumn("baseline_sha256", "string", "SHA-256 of the files of the linear baseline that was fitted on the same rows."),
        TableColumn("code", "string", "The git commit that judged."),
        TableColumn("level", "double", "The error rate that one comparison was allowed, after those made before on the same rows."),
        TableColumn("judged_before", "int", "Candidates that were judged on the same held-out nights before."),
        TableColumn("outcome", "string", "passed, refused or wait (too little to judge by)."),
        TableColumn("document", "string", "The report itself, as canonical JSON: its SHA-256 is the digest."),
        *_CHAIN,
    ),
)
APPROVALS = Table(
    schema="ops",
    name="approvals",
    comment="Human answers. One row per answer.",
    partition=(),
    columns=(
        TableColumn("report_digest", "string", "The report that was answered."),
        _USE_CASE,
        TableColumn("answer", "string", "Approve, Reject, or Void: a yes that did not count, with the reasons as its comment."),
        TableColumn("by", "string", "Who answered."),
        TableColumn("at", "timestamp", "When."),
        # From here on as they came to tables of an earlier version.
        TableColumn("model_version", "string", "The candidate that was answered for."),
        TableColumn("comment", "string", "What whoever answered said of it; null where nothing was."),
        TableColumn("expires_at", "timestamp", "Until when the answer may be acted on."),
        TableColumn("channel", "string", "human, or policy where the policy needs nobody's word."),
        TableColumn("triggered_by", "string", "Who started the run that asked."),
        *_CHAIN,
    ),
)
CHAMPION_HISTORY = Table(
    schema="ops",
    name="champion_history",
    comment="Who reigned over which nights. One row per change of champion.",
    partition=(),
    columns=(
        _USE_CASE,
        TableColumn("model_version", "string", "The champion."),
        TableColumn("from_night", "date", "First night it scores."),
        TableColumn(
            "until_night", "date", "Last night it scores; null while it reigns, the night before its first if it never did.", later=True
        ),
        TableColumn("why", "string", "What made it champion."),
        TableColumn("by", "string", "Who approved."),
        TableColumn("at", "timestamp", "When it was promoted (wall clock)."),
        TableColumn("report_digest", "string", "The gate report it was promoted on."),
        # From here on as they came to tables of an earlier version.
        TableColumn("act", "string", "promote, rollback or baseline."),
        TableColumn("model_sha256", "string", "SHA-256 of the champion's files."),
        *_CHAIN,
    ),
)
ACTS = Table(
    schema="ops",
    name="acts",
    comment="What a person did to champions, lists and quarantine. One row per act.",
    partition=(),
    columns=(
        TableColumn("act_id", "string", "Names the act; asked for twice, it is one."),
        _USE_CASE,
        TableColumn("act", "string", "freeze, unfreeze, rollback, baseline, champion, publish_anyway, release or refer."),
        TableColumn("night", "date", "The night it is about, or from which on it holds."),
        TableColumn("by", "string", "Who did it."),
        TableColumn("at", "timestamp", "When."),
        TableColumn("why", "string", "Their reason, in their words."),
        TableColumn("detail", "string", "JSON: what the act needs beside."),
        *_CHAIN,
    ),
)
PUBLICATIONS = Table(
    schema="ops",
    name="publications",
    comment="What became of each morning's list, and all that it was made from. One row per night, use case and revision.",
    columns=(
        _DAY,
        _USE_CASE,
        TableColumn("revision", "int", "From 1: how often the night's list changed; 0 for a night that was skipped."),
        TableColumn("state", "string", "published, marked, held or skipped."),
        TableColumn("mark", "string", "stale, fallback, baseline, odd or anyway; null where nothing was wrong."),
        TableColumn("reasons", "string", "JSON: what the guards saw."),
        TableColumn("model_version", "string", "The model that scored."),
        TableColumn("model_sha256", "string", "SHA-256 of its files."),
        TableColumn("features_version", "bigint", "Version of the features table that was scored."),
        TableColumn("versions", "string", "JSON: versions of the silver and bronze tables that the features rest on."),
        TableColumn("code", "string", "The git commit that scored; -dirty behind it: it was more than that."),
        TableColumn("features_digest", "string", "Digest of the night's features, without clocks, in whatever order."),
        TableColumn("scores_digest", "string", "Digest of the night's scores, without clocks, in whatever order."),
        TableColumn("alerts_digest", "string", "Digest of the list, without its revision and mark."),
        TableColumn("rows", "bigint", "Rows of the list."),
        TableColumn("published_at", "timestamp", "When it appeared, or was held.", clock=True),
        TableColumn(
            "triggered_by",
            "string",
            "Who started runs of it by hand, separated by commas, and so may not release it; null for the schedule.",
        ),
    ),
)
REPLAYS = Table(
    schema="ops",
    name="replays",
    comment="Whether a night, made again from bronze, is what was published. One row per night and use case: the last replay.",
    columns=(
        _DAY,
        _USE_CASE,
        TableColumn("revision", "int", "The revision of the list that it was compared with."),
        TableColumn(
            "outcome", "string", "equal, explained (it differs, and what changed since is known), differs or lost (not to be rebuilt)."
        ),
        TableColumn("reasons", "string", "JSON: what differs and why, in words; rows by the file and row that brought them."),
        TableColumn("code", "string", "The git commit that rebuilt it."),
        TableColumn("cores", "int", "Of the machine, that the rebuild used; null: all of them."),
        TableColumn("features_digest", "string", "Of what was rebuilt, as in ops.publications."),
        TableColumn("scores_digest", "string", "Of what was rebuilt, as in ops.publications."),
        TableColumn("alerts_digest", "string", "Of what was rebuilt, as in ops.publications."),
        TableColumn("replayed_at", "timestamp", "When.", clock=True),
    ),
)
NIGHTS = Table(
    schema="ops",
    name="nights",
    comment="What each stage did with a night. One row per night, use case and stage.",
    partition=("day", "stage"),
    columns=(
        _DAY,
        _USE_CASE,
        TableColumn("stage", "string", "bronze, silver, features, scores or monitor; with the feed where there are two."),
        TableColumn("seconds", "double", "How long it took, spread evenly where one run did many nights.", clock=True),
        TableColumn("rows_in", "bigint", "Rows read."),
        TableColumn("rows_out", "bigint", "Rows written."),
        TableColumn("rejected", "bigint", "Rows to quarantine."),
        TableColumn("state", "string", "done, empty or skipped."),
    ),
)
DBT_NODES = Table(
    schema="ops",
    name="dbt_nodes",
    comment="What dbt did when a night was last built, or failed to be. One row per night, use case and node.",
    partition=("day", "use_case"),
    columns=(
        TableColumn("day", "date", "The last night that was built together."),
        _USE_CASE,
        TableColumn("first_night", "date", "The first of them: the same night, unless a range was built."),
        TableColumn("node", "string", "The name of the model or test."),
        TableColumn("kind", "string", "model or test."),
        TableColumn("status", "string", "dbt's word: success, pass, warn, error, fail or skipped."),
        TableColumn("seconds", "double", "How long it took.", clock=True),
        TableColumn("rows", "bigint", "Rows that a model brought, or that a test found at fault; null where nobody counted."),
        TableColumn("message", "string", "dbt's own words, cut where they are long."),
        TableColumn("built_at", "timestamp", "When the build ended.", clock=True),
    ),
)
TABLE_PINS = Table(
    schema="ops",
    name="table_pins",
    comment="Table versions that `maintain` keeps. One row per version and reason.",
    partition=(),
    columns=(
        TableColumn("table_name", "string", "The table, with its schema."),
        TableColumn("version", "bigint", "The version."),
        TableColumn("why", "string", "Who needs it: a training run's id, or a person's word."),
        TableColumn("until", "date", "The last day it is kept; null until it is released."),
        TableColumn("pinned_at", "timestamp", "When it was pinned.", clock=True),
    ),
)

BATCHES = Table(
    schema="ops",
    name="batches",
    comment="What silver rests on. Written last, so that a night with its record is whole. One row per night and feed.",
    partition=("day", "feed"),
    columns=(
        _DAY,
        TableColumn("feed", "string", "The feed."),
        TableColumn("source", "string", "The landed file, below the landing folder; null where the feed owed none."),
        TableColumn("batch", "string", "SHA-256 of the landed file."),
        TableColumn("contract_version", "string", "The contract version whose columns the file has."),
        TableColumn("reordered", "boolean", "Whether they stood in another order."),
        TableColumn("inputs", "string", "SHA-256 over file, contract and the inputs of the nights in which keys were looked for."),
        TableColumn("rows", "bigint", "Rows of the file."),
        TableColumn("accepted", "bigint", "Rows in silver."),
        TableColumn("rejected", "bigint", "Rows in quarantine that were not released."),
        TableColumn("landed_at", "timestamp", "When the file was last written.", clock=True),
        TableColumn("ingested_at", "timestamp", "When the night was whole.", clock=True),
        # Last, as it is in tables of an earlier version.
        TableColumn("erased", "bigint", "Rows of the file that are in no table, because their person was erased; null: none."),
    ),
)
CONTRACT_RESULTS = Table(
    schema="ops",
    name="contract_results",
    comment="What each rule said of a night's batch. One row per night, feed and rule.",
    partition=("day", "feed"),
    columns=(
        _DAY,
        TableColumn("feed", "string", "The feed."),
        TableColumn("rule", "string", "The rule; schema rules are every feed's, the others are in its contract."),
        TableColumn("kind", "string", "schema, range, distribution, duplicates, temporal or consistency."),
        TableColumn("severity", "string", "reject: the row goes to quarantine; stop: the batch stays out; warn: it is told."),
        TableColumn("verdict", "string", "passed, failed, accepted (a person let the batch through) or unknown (too little to judge by)."),
        TableColumn("rows", "bigint", "Rows judged."),
        TableColumn("failed_rows", "bigint", "Rows that failed."),
        TableColumn("sample", "string", "Some of them, as file:line; their values are in silver.quarantine."),
        TableColumn("reason", "string", "What was seen and what was expected."),
        TableColumn("figures", "string", "JSON: what the verdict rests on, and later nights are compared with."),
        TableColumn("batch", "string", "SHA-256 of the landed file."),
        TableColumn("judged_at", "timestamp", "When it was judged.", clock=True),
    ),
)
STALE_NIGHTS = Table(
    schema="ops",
    name="stale_nights",
    comment="Nights to rebuild, because what they rest on changed after they were built. One row per night and table.",
    columns=(
        _DAY,
        TableColumn("table_name", "string", "The table whose night is stale."),
        TableColumn("because", "string", "What changed."),
        TableColumn("marked_at", "timestamp", "When it was found.", clock=True),
        TableColumn("rebuilt_at", "timestamp", "When it was built again; null while it is stale."),
    ),
)

PARITY = Table(
    schema="ops",
    name="parity",
    comment="Whether scored rows are what silver says: computed anew from silver alone. One row per night and use case.",
    columns=(
        _DAY,
        _USE_CASE,
        TableColumn("rows", "bigint", "Scored rows that were computed anew."),
        TableColumn("differences", "bigint", "Rows among them of which a feature or the score is another."),
        TableColumn(
            "sample",
            "string",
            "JSON: by column that differs, in how many rows, and by how much at most; no row is named, because rows are persons'.",
        ),
        TableColumn("checked_at", "timestamp", "When it was checked.", clock=True),
    ),
)

LEAK_SCANS = Table(
    schema="ops",
    name="leak_scans",
    comment="Whether features know what their night did not. One row per use case and state of their code.",
    partition=(),
    columns=(
        _USE_CASE,
        TableColumn("code", "string", "SHA-256 over everything that makes the features."),
        TableColumn("passed", "boolean", "Whether nothing was found."),
        TableColumn("seen", "string", "What was found, or what stood still."),
        TableColumn("scanned_at", "timestamp", "When it was scanned.", clock=True),
    ),
)

ERASED_KEYS = Table(
    schema="ops",
    name="erased_keys",
    comment="Whom ingest leaves out, as keyed digests: the key lies outside the lake. One row per person, and per event of theirs.",
    partition=(),
    columns=(
        TableColumn("request_id", "string", "The request; landing where ingest met an event of somebody erased before."),
        TableColumn("kind", "string", "entity: a person; key: an event of theirs."),
        TableColumn("column_name", "string", "The column of a feed whose value was digested."),
        TableColumn("digest", "string", "HMAC-SHA256 of the value."),
        TableColumn("key_check", "string", "Names the key without telling it: with another one nobody would be recognised."),
        TableColumn("registered_at", "timestamp", "From when on ingest left them out.", clock=True),
    ),
)
ERASURES = Table(
    schema="ops",
    name="erasures",
    comment="Receipts of persons who were erased. Written last: what a receipt lists is done. One row per request.",
    partition=(),
    columns=(
        TableColumn("request_id", "string", "The request's token."),
        _USE_CASE,
        TableColumn("subject", "string", "The person's keyed digest, as in ops.erased_keys."),
        TableColumn("rows", "string", "JSON: rows removed by table."),
        TableColumn("purged", "string", "JSON: tables whose older versions told of the person, and of which only the live one is left."),
        TableColumn("pins", "string", "JSON: pins that were given up, because they held older versions."),
        TableColumn("files", "string", "JSON: files of ours that were rewritten or removed, below the home, with the rows that went."),
        TableColumn("reported", "string", "JSON: landed files that are not ours to change and hold the person, or that cannot be read."),
        TableColumn("models", "string", "JSON: model versions that had the person among their rows, and how that is known."),
        TableColumn("retrain", "string", "The retrain request that was filed, in ops.retrain_requests; null where none was needed."),
        TableColumn("searched", "string", "JSON: what was searched at the end, and how."),
        TableColumn("digest", "string", "SHA-256 over all columns before this one."),
        TableColumn("erased_at", "timestamp", "When it was done.", clock=True),
        *_CHAIN,
    ),
)

SHARED = (
    QUARANTINE,
    PSEUDONYMS,
    PERFORMANCE,
    DRIFT_METRICS,
    RETRAIN_REQUESTS,
    TRAINING_ATTEMPTS,
    GATE_REPORTS,
    APPROVALS,
    CHAMPION_HISTORY,
    ACTS,
    PUBLICATIONS,
    REPLAYS,
    NIGHTS,
    PARITY,
    LEAK_SCANS,
    DBT_NODES,
    BATCHES,
    CONTRACT_RESULTS,
    STALE_NIGHTS,
    TABLE_PINS,
    ERASED_KEYS,
    ERASURES,
)


def of(use_case: UseCase) -> tuple[Table, ...]:
    """The tables of one use case, in walking order."""
    per_feed = [table(feed) for table in (bronze, silver) for feed in use_case.feeds]
    return (*per_feed, features(use_case), scores(use_case), alerts(use_case))
