{# The nights to build, both included, as a condition on `day`. #}
{% macro in_nights() -%}
  day between date'{{ var("first_night") }}' and date'{{ var("last_night") }}'
{%- endmacro %}


{# `where: nights` of a data test: said here, because a condition in a yml file is read once, whatever nights are built later. #}
{% macro get_where_subquery(relation) -%}
  {%- set where = config.get('where', '') -%}
  {%- if where == 'nights' -%} {%- set where = in_nights() -%} {%- endif -%}
  {{ return('(select * from ' ~ relation ~ ' where ' ~ where ~ ') tested' if where else relation) }}
{%- endmacro %}
