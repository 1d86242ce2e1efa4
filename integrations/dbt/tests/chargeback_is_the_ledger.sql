-- what is charged back adds up to the ledger, to the last place
with charged as (select coalesce(sum(total_usd), 0) as usd from {{ ref('thirdshift_chargeback') }}),
     paid as (select coalesce(sum(cost_usd), 0) as usd from {{ source('thirdshift', 'ledger') }})
select charged.usd as charged_usd, paid.usd as paid_usd from charged, paid where charged.usd <> paid.usd
