"""The `models` commands: what is known of models with its sources, what they cost by whom, and a newer price map."""

from __future__ import annotations

import json
import os
import re
import stat
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from thirdshift.engines.pricemap import bundled_map
from thirdshift.flows.cli.app import app
from thirdshift.flows.errors import JobError, UserError
from thirdshift.flows.jobs.building import books, endpoint_values
from thirdshift.flows.jobs.job import load_job
from thirdshift.flows.models.listing import names_of
from thirdshift.flows.models.registry import import_map, load_registry, map_in_use, stored_map
from thirdshift.flows.models.updates import spans
from thirdshift.router.pricing.map_diff import compare
from thirdshift.router.pricing.pricebook import PriceMissing, facts_of, schedule_for
from thirdshift.router.values import Endpoint, Mode

UNPRICED = {"SenseNova U1", "Dola-Seed-2.0 Preview", "GPT-5.4 xHigh", "Gemini 3.1 Ultra"}
"""Models of the field that litellm's map has no name for."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test imports into a folder of its own, and has a terminal of 80 columns."""
    monkeypatch.setenv("THIRDSHIFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / "home"


def said(*words: str) -> Result:
    return CliRunner().invoke(app, ["models", *words])


def answer(*words: str) -> Any:
    """What a command says as JSON: stdout is one object and nothing else."""
    result = said(*words, "--json")
    assert (result.exit_code, result.exception) == (0, None)
    return json.loads(result.stdout)


def listed(*words: str) -> dict[str, Any]:
    return {row["name"]: row for row in answer(*words)["models"]}


def refusal(*words: str) -> str:
    error = said(*words).exception
    assert isinstance(error, UserError)
    assert error.exit_code == 2
    return str(error)


def newer(folder: Path, **changes: Any) -> Path:
    """A file with the bundled map and these entries put in (None: taken out)."""
    prices = {**bundled_map()[0], **changes}
    file = folder / "newer.json"
    file.write_text(json.dumps({k: v for k, v in prices.items() if v is not None}), "utf-8")
    return file


def endpoints(folder: Path, entries: list[str]) -> tuple[Endpoint, ...]:
    """The endpoints of a job with one for each entry, by the books of this machine."""
    path = folder / "job.yaml"
    lines = [f"  - {{name: e{i}, api_key_env: K, {entry}}}\n" for i, entry in enumerate(entries)]
    path.write_text("name: a\ninput: b.parquet\nendpoints:\n" + "".join(lines), "utf-8")
    return endpoint_values(load_job(path, {}, environ={"K": "a-key"}), *books())


# --- the list -----------------------------------------------------------------------------------------------


def test_the_list_has_every_model_of_the_catalogue_and_unknown_is_null() -> None:
    models = listed()
    assert set(models) == {m.name for m in load_registry().catalogue.models}
    assert {name for name, row in models.items() if row["input_usd_per_mtok"] is None} == UNPRICED
    nova = models["SenseNova U1"]
    assert [nova[key] for key in ("licence", "offer", "price_source", "quality_prior")] == [None] * 4
    assert (models["GLM-5"]["licence"], models["GLM-5"]["origin"], models["GLM-5"]["lab"]) == (
        "mit",
        "CN",
        "Z.ai",
    )


def test_the_list_says_who_sells_a_model_and_that_nobody_is_known_to() -> None:
    models = listed()
    assert {name for name, row in models.items() if not row["sellers"]} == UNPRICED
    for name, row in models.items():
        assert row["provider"] in row["sellers"] or name in UNPRICED
        assert answer("show", name)["sellers"] == row["sellers"]
    assert {"moonshot", "together_ai", "deepinfra"} <= set(models["Kimi K2.6"]["sellers"])
    told = said().stdout
    others = len(models["Hermes 4"]["sellers"]) - 1
    assert others == 0
    assert re.search(r"Hermes 4 .* nebius +unknown", told)
    assert re.search(r"Claude Opus 4.7 .* anthropic \+\d+ ", told)
    assert re.search(r"SenseNova U1 .* unknown +unknown +unknown", told)
    assert re.search(r"sold by +unknown", said("show", "SenseNova U1").stdout)


def test_the_price_of_a_list_is_that_of_the_cheapest_offer_and_says_whose() -> None:
    prices, version = bundled_map()
    row = listed()["Kimi K2.6"]
    known = load_registry()
    model = known.catalogue.find("kimi-k2.6")
    assert model is not None
    totals = {
        name: price["input_cost_per_token"] + price["output_cost_per_token"]
        for name in names_of(known, model)
        if "input_cost_per_token" in (price := prices[name])
    }
    assert len(totals) > 5
    assert totals[row["offer"]] == min(totals.values())
    entry = prices[row["offer"]]
    assert row["input_usd_per_mtok"] == pytest.approx(entry["input_cost_per_token"] * 1e6)
    assert row["output_usd_per_mtok"] == pytest.approx(entry["output_cost_per_token"] * 1e6)
    assert row["price_source"] == f"litellm {version}"


def test_what_costs_nothing_in_the_map_is_no_cheapest_offer() -> None:
    shown = answer("show", "gpt-oss")
    free = [o["name"] for o in shown["offers"] if o["prices"] and o["prices"][0]["output_usd_per_mtok"] == 0]
    assert "ollama/gpt-oss:20b-cloud" in free
    assert listed()["GPT-OSS"]["output_usd_per_mtok"] > 0


@pytest.mark.parametrize(
    ("words", "holds"),
    [
        (["--licence", "MIT"], lambda row: row["licence"] == "mit"),
        (["--lab", "deepseek"], lambda row: row["lab"] == "DeepSeek"),
        (["--origin", "fr"], lambda row: row["origin"] == "FR"),
        (["--weights", "open"], lambda row: row["weights"] == "open"),
        (["--max-output", "0.5"], lambda row: (row["output_usd_per_mtok"] or 1e9) <= 0.5),
        (["--max-input", "0.2", "--origin", "CN"], lambda row: (row["input_usd_per_mtok"] or 1e9) <= 0.2),
    ],
)
def test_a_filter_keeps_what_is_known_to_fit_and_nothing_else(words: list[str], holds: Any) -> None:
    kept = listed(*words)
    assert kept
    assert all(holds(row) for row in kept.values())
    assert len(kept) < len(listed())


def test_both_price_limits_are_of_one_and_the_same_offer() -> None:
    """DeepSeek V4 Pro: the cheapest in all costs 1.2 in; another 1.15 in and 2.55 out."""
    row = listed("--lab", "DeepSeek", "--max-input", "1.19")["DeepSeek V4 Pro"]
    assert row["input_usd_per_mtok"] <= 1.19 < listed()["DeepSeek V4 Pro"]["input_usd_per_mtok"]
    assert "DeepSeek V4 Pro" not in listed("--max-input", "1.19", "--max-output", "1.3")


def test_a_list_that_nothing_fits_says_what_there_is() -> None:
    result = said("--licence", "mti")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "licences: mit" in result.stderr
    assert answer("--licence", "mti") == {"models": []}


def test_the_list_and_a_model_read_well_at_80_columns() -> None:
    for words in ([], ["show", "gpt-5.4"], ["show", "kimi-k2.6"], ["show", "Gemini 3.1 Ultra"]):
        shown = said(*words).stdout
        assert max(map(len, shown.splitlines())) <= 80
        assert "unknown" in shown
    rows = said().stdout.splitlines()
    assert any(row.startswith("Claude Opus 4.7 ") and " 5/25 anthropic " in row for row in rows)


def test_options_of_the_list_before_a_command_are_refused_not_ignored() -> None:
    assert "models show" in refusal("--licence", "mit", "show", "GLM-5")


# --- one model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["DeepSeek V4 Flash", "deepseek/deepseek-v4-flash", "/models/DeepSeek-V4-Flash-FP8", "deepseek v4 flash"],
)
def test_a_model_is_found_by_its_name_by_litellms_and_by_a_path(name: str) -> None:
    assert answer("show", name)["name"] == "DeepSeek V4 Flash"


def test_every_fact_of_a_model_comes_with_its_source_and_date() -> None:
    known = load_registry()
    for model in known.catalogue.models:
        facts = answer("show", model.name)["facts"]
        assert len(facts) == len(model.facts)
        assert all(fact["source"] and "source_date" in fact for fact in facts)
    glm = {(f["name"], f["source_date"]): f["value"] for f in answer("show", "GLM-5")["facts"]}
    assert glm["SWE-bench Verified", "2026-05-16"] == 77.8
    assert "AerioxFlux, 2026-05-16" in said("show", "GLM-5").stdout


def test_a_models_modes_tiers_and_off_peak_hours_are_the_price_books() -> None:
    gpt = {o["name"]: {p["mode"]: p for p in o["prices"]} for o in answer("show", "GPT-5.4")["offers"]}[
        "gpt-5.4"
    ]
    assert set(gpt) == {"realtime", "batch", "flex"}
    assert gpt["batch"]["output_usd_per_mtok"] * 2 == gpt["realtime"]["output_usd_per_mtok"] == 15
    (tier,) = gpt["realtime"]["tiers"]
    assert (tier["above_tokens"], tier["output_usd_per_mtok"]) == (272_000, 22.5)
    flash = {o["name"]: o["prices"][0] for o in answer("show", "deepseek-v4-flash")["offers"]}
    weekdays = flash["deepseek/deepseek-v4-flash"]["off_peak"][0]
    assert (weekdays["factor"], weekdays["days"]) == (0.5, [0, 1, 2, 3, 4])
    shown = " ".join(said("show", "deepseek-v4-flash").stdout.split())
    assert "0.5 of the price, mon-fri at hours 0, 4-5, 10-23 UTC" in shown
    assert "realtime above 272k" in said("show", "gpt-5.4").stdout


def test_a_model_that_only_the_price_map_has_is_shown_with_its_lab_unknown() -> None:
    shown = answer("show", "gpt-4o-mini")
    assert (shown["in_catalogue"], shown["lab"], shown["facts"]) == (False, None, [])
    assert shown["offers"][0]["prices"][0]["input_usd_per_mtok"] > 0
    assert "not in the catalogue" in said("show", "gpt-4o-mini").stdout


def test_an_unknown_model_is_refused_with_the_nearest_names() -> None:
    assert "did you mean DeepSeek V4 Flash" in refusal("show", "deepseek-v4-flsh")
    assert "`thirdshift models` lists" in refusal("show", "zzzzqqqq")


# --- in a job -----------------------------------------------------------------------------------------------


def test_a_job_naming_any_model_of_the_catalogue_has_a_price_from_the_book_or_from_itself(
    tmp_path: Path,
) -> None:
    known = load_registry()
    models = known.catalogue.models
    stated = "price: {input: 1, output: 2}"
    by_job = endpoints(tmp_path, [f'model: "openai/{model.name}", {stated}' for model in models])
    assert [e.facts.lab for e in by_job] == [m.lab for m in models]
    assert {(e.price.base.output, e.price.source) for e in by_job} == {(Decimal(2), "job")}
    offers = {row["name"]: row["offer"] for row in listed().values() if row["offer"]}
    by_book = endpoints(tmp_path, [f'model: "{offer}"' for offer in offers.values()])
    assert {m.name for m in models} - set(offers) == UNPRICED
    assert all(e.price.base.output > 0 and e.price.source.startswith("litellm ") for e in by_book)
    for name in UNPRICED:
        with pytest.raises(JobError, match=r"price: \{input: FILL_IN"):
            endpoints(tmp_path, [f'model: "openai/{name}"'])


def test_a_job_adds_and_overrides_the_catalogues_facts(tmp_path: Path) -> None:
    price = "price: {input: 1, output: 2}"
    ours, new, plain = endpoints(
        tmp_path,
        [
            f"model: zai/glm-5, licence: apache-2.0, origin: FR, quality_prior: 0.5, {price}",
            f"model: acme/brand-new, licence: mit, lab: Acme, origin: US, {price}",
            f"model: acme/brand-new, {price}",
        ],
    )
    assert (ours.facts.licence, ours.facts.origin, ours.facts.lab) == ("apache-2.0", "FR", "Z.ai")
    assert ours.quality_prior == 0.5
    assert (new.facts.licence, new.facts.lab, new.facts.origin) == ("mit", "Acme", "US")
    assert (plain.facts.licence, plain.facts.lab, plain.facts.origin, plain.quality_prior) == (None,) * 4


def test_a_context_window_that_the_map_lacks_is_the_catalogues(tmp_path: Path) -> None:
    model = next(m for m in load_registry().catalogue.models if m.context_window)
    entry = f'model: "openai/{model.name}", price: {{input: 1, output: 1}}'
    assert endpoints(tmp_path, [entry])[0].context_window == model.context_window


# --- the price map ------------------------------------------------------------------------------------------


def test_a_newer_map_is_shown_as_a_difference_and_then_prices_every_job(tmp_path: Path) -> None:
    dearer = {**bundled_map()[0]["gpt-5.4"], "output_cost_per_token": 1.6e-5}
    file = newer(tmp_path, **{"gpt-5.4": dearer, "acme/new": dearer, "moonshot/kimi-k2.6": None})
    told = answer("prices", "--update", str(file))
    assert (told["added"], told["removed"]) == (["acme/new"], ["moonshot/kimi-k2.6"])
    (change,) = told["changed"]
    assert (change["model"], change["mode"]) == ("gpt-5.4", "realtime")
    assert (change["before"]["output_usd_per_mtok"], change["after"]["output_usd_per_mtok"]) == (15, 16)
    (endpoint,) = endpoints(tmp_path, ["model: openai/gpt-5.4"])
    imported = date.fromisoformat(told["price_map"]["imported"])
    assert endpoint.price.base.output == 16
    assert endpoint.price.source == f"litellm map of newer.json, imported {imported}"
    assert endpoint.price.as_of == imported
    assert answer("prices")["price_map"]["source"] == endpoint.price.source
    assert answer("show", "acme/new")["offers"][0]["prices"][0]["output_usd_per_mtok"] == 16


def test_a_difference_for_people_gives_old_and_new_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    map_of = bundled_map()[0]
    many = [k for k, v in map_of.items() if v.get("mode") == "chat" and v.get("output_cost_per_token")][:60]
    changes = {
        k: {**map_of[k], "output_cost_per_token": map_of[k]["output_cost_per_token"] * 2} for k in many
    }
    changes |= {f"acme/{i}": map_of["gpt-5"] for i in range(14)}
    changes["gpt-5"] = {**map_of["gpt-5"], "output_cost_per_token": 1.25e-5}
    shown = said("prices", "--update", str(newer(tmp_path, **changes))).stdout
    assert "added: 14 models: acme/0" in shown
    assert "and 4 more" in shown
    assert "removed: 0 models" in shown
    assert "more; --json lists all" in shown
    assert shown.count("→") <= 50
    back = newer(tmp_path, **{**changes, "gpt-5": map_of["gpt-5"]})
    assert "12.5 → 10" in said("prices", "--update", str(back)).stdout


def test_the_imported_map_is_for_its_user_alone_and_reset_goes_back(tmp_path: Path, home: Path) -> None:
    import_map(newer(tmp_path), date(2026, 11, 22))
    assert stored_map().parent == home
    assert stat.S_IMODE(os.stat(stored_map()).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(home).st_mode) == 0o700
    assert os.listdir(home) == ["prices.json"]
    assert "kept in" in said("prices").stdout
    assert said("prices", "--reset").exit_code == 0
    assert (map_in_use().imported, os.listdir(home)) == (None, [])
    assert "no imported price map" in said("prices", "--reset").stderr
    assert answer("prices")["price_map"]["file"] is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ('{"a": {"input_cost_per_token": NaN}}', "NaN is no number"),
        ("[]", "its top level must be an object of models"),
        ("{}", "a broken file"),
    ],
)
def test_a_file_that_is_no_price_map_changes_nothing(tmp_path: Path, text: str, says: str) -> None:
    import_map(newer(tmp_path), date(2026, 11, 20))
    before = stored_map().read_bytes()
    file = tmp_path / "wrong.json"
    file.write_text(text, "utf-8")
    assert says in refusal("prices", "--update", str(file))
    assert "cannot be read" in refusal("prices", "--update", str(tmp_path / "absent.json"))
    assert stored_map().read_bytes() == before


def test_a_map_with_a_wrong_entry_is_refused_naming_it_without_its_terminal_codes(tmp_path: Path) -> None:
    wrong = {"acme/a": {"mode": "chat", "tiered_pricing": 5}, "b\x1b[31m": {"input_cost_per_token": -1}}
    message = refusal("prices", "--update", str(newer(tmp_path, **wrong)))
    assert "acme/a: cannot be read" in message
    assert "b?[31m: input_cost_per_token is no price" in message
    assert not stored_map().exists()


def test_a_broken_imported_map_stops_a_plan_and_says_the_way_out(tmp_path: Path) -> None:
    import_map(newer(tmp_path), date(2026, 11, 22))
    stored_map().write_bytes(stored_map().read_bytes()[:1000])
    with pytest.raises(UserError, match="--reset"):
        endpoints(tmp_path, ["model: openai/gpt-5.4"])
    import_map(newer(tmp_path), date(2026, 11, 23))
    assert map_in_use().imported == date(2026, 11, 23)


def test_update_and_reset_together_are_refused(tmp_path: Path) -> None:
    assert "exclude each other" in refusal("prices", "--reset", "--update", str(newer(tmp_path)))


odd = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**9) | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["range", "windows", "hours_utc"]), inner)
    ),
    max_leaves=6,
)
entry = st.dictionaries(
    st.sampled_from(
        [
            "mode",
            "input_cost_per_token",
            "output_cost_per_token",
            "cache_read_input_token_cost",
            "tiered_pricing",
            "off_peak_pricing",
            "max_input_tokens",
            "supported_modalities",
            "litellm_provider",
        ]
    ),
    odd,
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(["a", "x/b"]), entry))
def test_whatever_a_map_holds_is_refused_with_a_reason_or_can_be_read(prices: dict[str, Any]) -> None:
    if compare({}, prices).problems:
        return
    for name in prices:
        facts_of(name, prices)
        for mode in Mode:
            try:
                schedule_for(name, mode, prices)
            except PriceMissing:
                continue


@given(st.sets(st.integers(0, 23)))
def test_hours_in_words_are_the_hours(hours: set[int]) -> None:
    read: set[int] = set()
    for part in filter(None, spans(hours).split(", ")):
        first, _, last = part.partition("-")
        read |= set(range(int(first), int(last or first) + 1))
    assert read == hours
