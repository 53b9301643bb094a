{#
  step: a model on the way, laid in a folder of the build's own and read from there by the models after it.

  Not a table: nothing is committed, two builds side by side never meet, and the folder goes when the build ends (`steps` names it).
  ORC, because Spark writes it in half the time that Parquet takes and nobody else reads it.
  Not held in memory either: Spark describes a plan over held plans, and those over theirs, for seconds before it runs.
#}
{% materialization step, adapter='spark' %}
  {%- set view = this.include(schema=false) -%}
  {%- set folder = var('steps') ~ '/' ~ this.identifier -%}

  {{ run_hooks(pre_hooks) }}
  {% call statement('laid') %}
    insert overwrite directory '{{ folder }}' using orc
    {{ sql }}
  {% endcall %}
  {% call statement('view') %}
    create or replace temporary view {{ view }} using orc options (path '{{ folder }}')
  {% endcall %}
  {%- set rows = run_query('select count(*) from ' ~ view).rows[0][0] -%}
  {{ store_raw_result(name='main', message=rows ~ ' rows', code='OK', rows_affected=rows | string) }}
  {{ run_hooks(post_hooks) }}
  {{ return({'relations': []}) }}
{% endmaterialization %}


{# A step lives in the session, not in a schema. #}
{% macro ref(model_name) %}
  {%- set relation = builtins.ref(model_name) -%}
  {#- A unit test has no graph: there each input is rows of the test's own. -#}
  {%- set node = (graph.nodes or {}).get('model.' ~ project_name ~ '.' ~ model_name) if execute -%}
  {%- if node and node.config.materialized == 'step' -%}
    {%- set relation = relation.include(schema=false) -%}
  {%- endif -%}
  {{ return(relation) }}
{% endmacro %}
