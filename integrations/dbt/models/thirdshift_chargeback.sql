select month, job, tag, provider, direct_usd, overhead_usd, unsettled_usd, accounting_usd,
       direct_usd + overhead_usd + unsettled_usd as total_usd
from {{ source('thirdshift', 'chargeback') }}
