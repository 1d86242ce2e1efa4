{{ config(materialized='incremental', unique_key=['job', 'request_id'], incremental_strategy='delete+insert') }}

select * from {{ source('thirdshift', 'answers') }}
{% if is_incremental() %}
where loaded_at > (select coalesce(max(loaded_at), '-infinity'::timestamptz) from {{ this }})
{% endif %}
