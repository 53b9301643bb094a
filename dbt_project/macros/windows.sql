{# Days in microseconds, the unit of `at`. #}
{% macro days(n) %}{{ n * 86400000000 }}{% endmacro %}


{#
  Sum of an expression over the rows of the same key in (at - delay - length, at - delay], in days.

  As the difference of two running sums, which cost one pass each however long the window; exact over integers only.
#}
{% macro sum_over(expression, key, length, delay=0) %}
  {{ running_sum(expression, key, delay) }} - {{ running_sum(expression, key, delay + length) }}
{%- endmacro %}

{% macro running_sum(expression, key, delay) -%}
  coalesce(sum({{ expression }}) over (
    partition by {{ key }} order by at
    range between unbounded preceding and {{ days(delay) ~ ' preceding' if delay else 'current row' }}
  ), 0)
{%- endmacro %}
