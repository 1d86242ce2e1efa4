"""What params and hosts make of a price, by the price map that comes with litellm."""

from __future__ import annotations

from decimal import Decimal

import pytest

from thirdshift.engines.pricemap import bundled_map
from thirdshift.router.pricing.pricebook import PriceMap, PriceMissing
from thirdshift.router.pricing.service import priced, service_of
from thirdshift.router.values import JSON, Mode, Price, PriceSchedule

BASE = Price(Decimal(4), Decimal(20), Decimal("0.4"))


def prices() -> PriceMap:
    return bundled_map()[0]


def input_price(model: str, params: dict[str, JSON], api_base: str | None = None) -> Decimal:
    mode, service = service_of(Mode.REALTIME, params, api_base)
    return priced(model, mode, service, prices(), lambda *_: PriceSchedule(BASE)).base.input


@pytest.mark.parametrize("region", ["us", "eu"])
def test_every_model_with_a_regional_uplift_pays_it_at_openais_regional_hosts_alone(region: str) -> None:
    key = f"regional_processing_uplift_multiplier_{region}"
    factors = {name: Decimal(str(entry[key])) for name, entry in prices().items() if key in entry}
    assert len(factors) > 10
    for model, factor in factors.items():
        assert input_price(model, {}, f"https://{region}.api.openai.com/v1") == 4 * factor
        assert input_price(model, {}, "https://api.openai.com/v1") == 4
    assert input_price("gpt-4o", {}, "https://eu.api.openai.com/v1") == 4, "the book has no uplift for it"


def test_a_place_and_a_speed_multiply_the_price_of_every_model_that_has_them() -> None:
    known = {
        name: entry["provider_specific_entry"]
        for name, entry in prices().items()
        if isinstance(entry.get("provider_specific_entry"), dict) and "us" in entry["provider_specific_entry"]
    }
    assert len(known) > 10
    for model, factors in known.items():
        assert input_price(model, {"inference_geo": "us"}) == 4 * Decimal(str(factors["us"]))
        assert input_price(model, {"inference_geo": "global"}) == 4
        if "fast" in factors:
            both = Decimal(str(factors["us"])) * Decimal(str(factors["fast"]))
            assert input_price(model, {"inference_geo": "US", "speed": "fast"}) == 4 * both
        else:
            with pytest.raises(PriceMissing, match="fast"):
                input_price(model, {"speed": "fast"})


def test_flex_among_the_params_is_the_mode_of_that_name() -> None:
    assert service_of(Mode.REALTIME, {"service_tier": "flex"}, None)[0] is Mode.FLEX
    assert service_of(Mode.REALTIME, {"service_tier": "auto"}, None)[1].tier is None
    assert service_of(Mode.REALTIME, {"service_tier": "priority"}, None)[1].tier == "priority"
