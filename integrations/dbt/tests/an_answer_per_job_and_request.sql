select job, request_id from {{ ref('thirdshift_answers') }} group by all having count(*) > 1
