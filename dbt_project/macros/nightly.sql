{#
  nightly: replace the nights `first_night..last_night` of a table in one commit; equal content commits nothing.

  The table itself (types, comments, properties) is made by the platform, so that its columns are described once.
  Unlike dbt's incremental `insert_overwrite`, a rerun with equal content leaves the table's version alone. A full refresh is the same
  act over all nights. A column that the table has and the model brings no more is null. What it brings its contract says.
#}
{% materialization nightly, adapter='spark' %}
  {%- set nights = in_nights() -%}
  {%- set columns = adapter.get_columns_in_relation(this) | map(attribute='name') | list -%}
  {%- if not columns -%}
    {{ exceptions.raise_compiler_error(this ~ " does not exist: create it with `python -m include.nightshift.lakehouse.catalog`") }}
  {%- endif -%}
  {%- set built = this.identifier ~ '__built' -%}

  {%- if not config.get('contract').enforced -%}
    {{ exceptions.raise_compiler_error(this.identifier ~ " is nightly without a contract: enforce one, and declare every column in its yml file") }}
  {%- endif -%}
  {{ get_assert_columns_equivalent(sql) }}
  {%- set brought = model.columns.keys() | list -%}

  {{ run_hooks(pre_hooks) }}

  {% call statement('built') %}
    create or replace temporary view {{ built }} as
    select
      {%- for column in columns %}
      {{ '' if column in brought else 'null as ' }}{{ column }}{{ ',' if not loop.last }}
      {%- endfor %}
    from (
    {{ sql }}
    )
    where {{ nights }}
  {% endcall %}

  {%- set held = fingerprint(this, columns, nights) -%}
  {%- if not held.startswith('0 ') and held == fingerprint(built, columns, nights) -%}
    {% call statement('main') %} select 'unchanged' {% endcall %}
  {%- else -%}
    {% call statement('main') %}
      insert into {{ this }} replace where {{ nights }}
      select * from {{ built }}
      distribute by day
    {% endcall %}
  {%- endif %}

  {{ run_hooks(post_hooks) }}
  {{ return({'relations': [this]}) }}
{% endmaterialization %}


{# Count and two order-free sums over 64-bit row hashes; null has its own mark, because xxhash64 passes over nulls. #}
{% macro fingerprint(relation, columns, nights) %}
  {%- set marked -%}
    {%- for column in columns %}isnull({{ column }}), {{ column }}{{ ", " if not loop.last }}{% endfor -%}
  {%- endset -%}
  {%- set result = run_query(
    "select count(*), cast(coalesce(sum(cast(h as decimal(38,0))), 0) as string), cast(coalesce(bit_xor(h), 0) as string)"
    ~ " from (select xxhash64(" ~ marked ~ ") as h from " ~ relation ~ " where " ~ nights ~ ")"
  ) -%}
  {{ return(result.rows[0].values() | map('string') | join(' ')) }}
{% endmacro %}
