"""Claims: their intervals, how they are shown, and when those of two runs agree."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import stats

import utils.claims.chapter as chapter_module
from utils.claims import CHECK_MIME, CLAIM_MIME, Chapter, Claim, agreement, interval
from utils.claims.chapter import check_bundle, cost_bundle
from utils.claims.claim import GLUE_PREFIX, summarise
from utils.claims.statistics import FALSE_ALARM, N_CLAIMS, SAME, Z_AGREE, Z_POWER, training_sd

FIELDS = {
    "id": "proto-5w1s", "title": "Prototypical, 5-way 1-shot", "kind": "accuracy", "unit": "%", "mean": 91.234,
    "ci95": 0.41, "sd": 6.6, "n": 1000, "over": "episodes", "chance": 20.0, "dataset": "glyphs/test",
    "scale": "lecture", "statistics": "running", "seed": 0, "device": "cpu", "torch": "2.15.0", "seconds": 12.3,
    "resolution": 5.0, "spread": {"sd": 0.31, "seeds": [1, 2, 3, 4, 5], "means": [91.0, 91.1, 91.2, 92.0, 91.5]},
}  # fmt: skip


def claim(**changes):
    return Claim(**{**FIELDS, **changes})


def payload(**changes):
    return asdict(claim(**changes))


# Intervals


@settings(deadline=None, max_examples=50)
@given(some.lists(some.floats(-1e3, 1e3), min_size=2, max_size=40))
def test_interval_is_that_of_scipy(samples):
    mean, half, sd = interval(samples)
    error = stats.sem(samples)
    low, high = stats.t.interval(0.95, len(samples) - 1, loc=np.mean(samples), scale=error) if error else (mean, mean)
    assert mean == pytest.approx(np.mean(samples), abs=1e-9)
    assert sd == pytest.approx(np.std(samples, ddof=1), abs=1e-9)
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-9, abs=1e-9)


def test_interval_of_five_seeds_uses_the_t_distribution():
    _, half, sd = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert half == pytest.approx(2.7764 * sd / math.sqrt(5), rel=1e-4)


def test_interval_covers_the_true_mean():
    generator = np.random.default_rng(0)
    found = [interval(generator.normal(3.0, 2.0, 10)) for _ in range(2000)]
    assert np.mean([abs(mean - 3.0) <= half for mean, half, _ in found]) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("samples", "complaint"),
    [
        ([], "at least two"),
        ([0.5], "at least two"),
        ([[0.5, 0.6], [0.7, 0.8]], "shape"),
        ([0.5, math.nan], "1 of 2 samples"),
        ([0.5, math.inf, -math.inf], "2 of 3 samples"),
    ],
)
def test_no_interval_of_bad_samples(samples, complaint):
    with pytest.raises(ValueError, match=complaint):
        interval(samples)


def test_summary_scales_everything_but_the_count():
    assert summarise([0.2, 0.4, 0.6], 100.0) == pytest.approx(
        {"mean": 40.0, "ci95": 100 * interval([0.2, 0.4, 0.6])[1], "sd": 20.0, "n": 3}
    )


def test_training_sd_takes_the_sampling_error_off():
    assert training_sd([1.0, 3.0], 0.0) == pytest.approx(math.sqrt(2))
    assert training_sd([1.0, 3.0], 1.0) == pytest.approx(1.0)
    assert training_sd([1.0, 1.1], 5.0) == 0.0, "seeds no further apart than episodes make them: nothing is left"
    with pytest.raises(ValueError, match="at least two seeds"):
        training_sd([1.0], 0.1)


def test_training_sd_finds_the_spread_of_training():
    generator = np.random.default_rng(0)
    found = [training_sd(generator.normal(80.0, math.hypot(0.6, 0.3), 5), 0.3) ** 2 for _ in range(4000)]
    assert math.sqrt(np.mean(found)) == pytest.approx(0.6, abs=0.03)


# Agreement


def test_constants_are_those_of_the_book():
    """``how_to_use.md`` derives them: a false alarm of 1/1000 shared among 200 claims, and 95 % power."""
    assert (FALSE_ALARM, N_CLAIMS) == (1e-3, 200)
    assert pytest.approx(4.5648, abs=1e-4) == Z_AGREE
    assert pytest.approx(2.5e-6) == stats.norm.sf(Z_AGREE)
    assert pytest.approx(1.645, abs=1e-3) == Z_POWER


def test_equal_claims_agree():
    found = agreement(payload(), payload())
    assert found.ok and found.z == 0 and found.reasons == ()


def test_a_rerun_within_the_interval_agrees():
    found = agreement(payload(), payload(mean=91.8, sd=6.2, ci95=0.38))
    assert found.ok
    error = math.sqrt(6.6**2 / 1000 + 6.2**2 / 1000 + 2 * 0.31**2)
    assert found.z == pytest.approx((91.8 - 91.234) / error)


@pytest.mark.parametrize("points", [-6.0, 6.0])
@pytest.mark.parametrize("which", ["stored", "new"])
def test_a_claim_moved_by_six_points_disagrees(points, which):
    moved, other = payload(mean=FIELDS["mean"] + points, chance=None), payload(chance=None)
    found = agreement(moved, other) if which == "stored" else agreement(other, moved)
    assert not found.ok and abs(found.z) > 6
    assert "standard errors from the stored" in found.reasons[0]


@pytest.mark.parametrize("changes", [{"n": 100}, {"sd": 60.0}, {"spread": {"sd": 2.0, "seeds": [], "means": []}}])
def test_a_claim_too_imprecise_disagrees_even_with_itself(changes):
    found = agreement(payload(**changes), payload(**changes))
    assert not found.ok and found.z == 0
    assert found.reasons[0].startswith(
        "too imprecise to notice a difference of 5: needs a standard error of at most 0.8"
    )


def test_precise_enough_is_where_the_book_says():
    """(z + 1.645) se <= resolution, with se^2 = 2 sd^2 / n here."""
    sd = 5.0 / (Z_AGREE + Z_POWER) * math.sqrt(1000 / 2)
    just, over = ({"spread": None, "sd": factor * sd} for factor in (0.999, 1.001))
    assert agreement(payload(**just), payload(**just)).ok
    assert not agreement(payload(**over), payload(**over)).ok


def test_the_spread_counts_twice():
    with_spread = payload(spread={"sd": 0.5, "seeds": [1, 2], "means": [1, 2]})
    found = agreement(with_spread, payload(mean=92.234, spread=None))
    assert found.z == pytest.approx(1 / math.sqrt(2 * 6.6**2 / 1000 + 2 * 0.5**2))


@pytest.mark.parametrize(
    ("mean", "ci95", "chance", "ok"),
    [(20.3, 0.4, 20.0, False), (20.5, 0.4, 20.0, True), (20.4, 0.4, 20.0, False), (19.0, 0.4, None, True),
     (0.5, 0.4, 0.0, True), (-0.5, 0.4, 0.0, False)],
)  # fmt: skip
def test_the_interval_must_lie_above_chance(mean, ci95, chance, ok):
    new = payload(mean=mean, ci95=ci95, chance=chance)
    found = agreement(new, new)
    assert found.ok == ok
    if not ok:
        assert f"does not lie above {chance:g}" in found.reasons[0]


@pytest.mark.parametrize("field", ["mean", "sd", "ci95"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_never_agrees(field, value):
    broken = payload(**{field: value})
    assert not agreement(payload(), broken).ok
    if field != "ci95":  # the stored interval is not used; the new one must beat chance
        assert not agreement(broken, payload()).ok


def test_nan_without_a_chance_level_never_agrees():
    for field in ("mean", "sd"):
        assert not agreement(payload(chance=None), payload(chance=None, **{field: math.nan})).ok


def test_without_any_variation_only_the_same_mean_agrees():
    exact = {"sd": 0.0, "ci95": 0.0, "spread": None}
    assert agreement(payload(**exact), payload(**exact)).ok
    found = agreement(payload(**exact), payload(mean=91.235, **exact))
    assert not found.ok and found.z == math.inf


@pytest.mark.parametrize("field", SAME)
def test_only_like_is_compared_with_like(field):
    other = {"kind": "value", "unit": "points", "dataset": "omniglot", "scale": "benchmark", "statistics": "batch",
             "over": "seeds", "n": 2000, "chance": 5.0, "resolution": 6.0}[field]  # fmt: skip
    found = agreement(payload(), payload(**{field: other}))
    assert not found.ok
    assert f"{field} is {other!r}, stored {FIELDS[field]!r}" in found.reasons


@pytest.mark.parametrize("field", ["device", "torch", "seconds", "seed", "title"])
def test_what_may_differ_between_machines_is_not_compared(field):
    other = {"device": "cuda", "torch": "2.4.0", "seconds": 1.0, "seed": 7, "title": "Other words"}[field]
    assert agreement(payload(), payload(**{field: other})).ok


def episodes(generator, mean, n=600, sd=9.5):
    return {**payload(chance=None, spread=None, n=n), **summarise(generator.normal(mean, sd, n))}


def test_two_runs_of_the_same_experiment_agree():
    """z is standard normal, so the chance of a false alarm is what Z_AGREE was chosen for, and too small to see."""
    generator = np.random.default_rng(0)
    found = [agreement(episodes(generator, 80.0), episodes(generator, 80.0)) for _ in range(3000)]
    assert all(one.ok for one in found)
    z = np.array([one.z for one in found])
    assert abs(z.mean()) < 0.06 and z.std() == pytest.approx(1.0, abs=0.04)
    assert np.mean(abs(z) > 1.96) == pytest.approx(0.05, abs=0.012)
    assert stats.kstest(z, "norm").pvalue > 0.01


def test_a_difference_of_the_resolution_is_noticed():
    """With the largest standard error that is still precise enough, 95 % of true differences of 5 points are found."""
    generator = np.random.default_rng(1)
    n = 600
    sd = 0.97 * 5.0 / (Z_AGREE + Z_POWER) * math.sqrt(n / 2)  # a little less: sd is estimated, and must never be more
    found = [agreement(episodes(generator, 80.0, n, sd), episodes(generator, 75.0, n, sd)) for _ in range(2000)]
    assert np.mean([not one.ok for one in found]) >= 0.95


def test_a_spread_measured_over_five_seeds_alarms_more_often_than_the_formula_says():
    """Five seeds estimate a spread so roughly that about 1 % of reruns elsewhere disagree, not 5 in a million.

    This is the worst case: training decides everything, episodes nothing. It bounds what "retrained on another machine"
    may cost; the same machine repeats a run to the bit.
    """
    generator = np.random.default_rng(2)
    error, spread = 3.5 / math.sqrt(1000), 0.5
    seeds = generator.normal(80.0, math.hypot(error, spread), (20_000, 5))
    estimated = np.maximum(0.0, seeds.var(axis=1, ddof=1) - error**2)
    difference = generator.normal(0.0, math.sqrt(2) * math.hypot(error, spread), 20_000)
    alarms = np.abs(difference) > Z_AGREE * np.sqrt(2 * error**2 + 2 * estimated)
    assert 0.002 < alarms.mean() < 0.015


# One claim


@pytest.mark.parametrize("id", ["", "A", "proto_5w1s", "proto--5w1s", "-proto", "proto-", "pro to", "proto/5w1s", "é"])
def test_an_id_is_plain(id):
    with pytest.raises(ValueError, match="a claim's id is made of"):
        claim(id=id)


@pytest.mark.parametrize("id", ["a", "proto-5w1s", "1-2-3"])
def test_plain_ids_pass(id):
    assert claim(id=id).id == id


def test_other_fields_are_validated():
    with pytest.raises(ValueError, match="kind must be one of"):
        claim(kind="loss")
    for resolution in (0.0, -1.0):
        with pytest.raises(ValueError, match="resolution must be positive"):
            claim(resolution=resolution)


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({}, "91.2 ± 0.4 %"),
        ({"ci95": 0.094}, "91.23 ± 0.09 %"),
        ({"ci95": 0.095}, "91.2 ± 0.1 %"),
        ({"ci95": 0.004}, "91.23 ± 0.00 %"),
        ({"ci95": 12.34}, "91.2 ± 12.3 %"),
        ({"kind": "difference"}, "+91.2 ± 0.4 points"),
        ({"kind": "difference", "mean": -3.25}, "−3.2 ± 0.4 points"),
        ({"kind": "difference", "unit": "nats"}, "+91.2 ± 0.4 nats"),
        ({"kind": "value", "unit": ""}, "91.2 ± 0.4"),
        ({"kind": "value", "unit": "s"}, "91.2 ± 0.4 s"),
        ({"kind": "value", "mean": -1.0}, "−1.0 ± 0.4 %"),
    ],
)
def test_value_shows_the_digits_that_the_interval_supports(changes, value):
    assert claim(**changes).value() == value


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({}, ["91.2 ± 0.4 %", "91.2 %", "0.3 points"]),
        ({"spread": None}, ["91.2 ± 0.4 %", "91.2 %"]),
        ({"kind": "difference", "mean": -3.25}, ["−3.2 ± 0.4 points", "−3.2 points", "0.3 points"]),
        ({"kind": "value", "unit": "s"}, ["91.2 ± 0.4 s", "91.2 s", "0.3 s"]),
        ({"kind": "value", "unit": ""}, ["91.2 ± 0.4", "91.2", "0.3"]),
    ],
)
def test_texts_for_prose(changes, texts):
    keys = ["proto-5w1s", "proto-5w1s-mean", "proto-5w1s-spread"][: len(texts)]
    assert claim(**changes).glue() == dict(zip(keys, texts, strict=True))


def test_conditions_say_what_the_number_depends_on():
    assert claim().conditions() == (
        "95 % interval over 1000 episodes, glyphs/test, running statistics, seed-to-seed sd 0.3"
    )
    assert claim(statistics=None, spread=None).conditions() == "95 % interval over 1000 episodes, glyphs/test"
    assert claim(resolution=8.0).conditions() == f"{claim().conditions()}, resolution 8"


def test_a_claim_is_shown_to_people_and_machines():
    bundle = claim(title="a < b & c").bundle()
    assert bundle["text/plain"] == f"a < b & c: 91.2 ± 0.4 % ({claim().conditions()})"
    assert "a &lt; b &amp; c" in bundle["text/html"] and "<strong>91.2 ± 0.4 %</strong>" in bundle["text/html"]
    assert Claim(**json.loads(json.dumps(bundle[CLAIM_MIME]))) == claim(title="a < b & c")


# A chapter


@pytest.fixture
def displayed(monkeypatch):
    """What a chapter displays, as (bundle, metadata)."""
    outputs = []
    monkeypatch.setattr(chapter_module, "_display", lambda bundle, metadata=None: outputs.append((bundle, metadata)))
    return outputs


@pytest.fixture
def records(monkeypatch):
    """The records that chapters find, by name; none at first."""
    stored = {}

    def read(name):
        if name not in stored:
            raise FileNotFoundError(name)
        return stored[name]

    monkeypatch.setattr(chapter_module, "read_record", read)
    for name in ("COURSE_SEED", "COURSE_WRITING"):
        monkeypatch.delenv(name, raising=False)
    return stored


@pytest.fixture
def chapter(records, displayed):
    return Chapter("01_small")


OPTIONS = {"chance": 0.2, "dataset": "made up"}
SCORES = np.random.default_rng(0).uniform(0.7, 1.0, 400)


def test_a_claim_of_a_chapter(chapter, displayed):
    made = chapter.claim("a", "First", SCORES, statistics="batch", **OPTIONS)
    assert (made.mean, made.ci95, made.sd) == pytest.approx(tuple(100 * x for x in interval(SCORES)))
    assert (made.kind, made.unit, made.n, made.over, made.chance) == ("accuracy", "%", 400, "episodes", 20.0)
    assert (made.scale, made.seed, made.resolution, made.device) == ("lecture", 0, 5.0, "cpu")
    assert (made.statistics, made.spread) == ("batch", None)
    assert made.torch == torch.__version__.split("+")[0]
    assert chapter.claims == {"a": made}
    bundles = [bundle for bundle, _ in displayed]
    assert bundles[0] == made.bundle()
    assert bundles[1:] == [{f"{GLUE_PREFIX}text/plain": repr(text)} for text in made.glue().values()]
    assert [metadata["scrapbook"]["name"] for _, metadata in displayed[1:]] == ["a", "a-mean"]


def test_a_claim_without_a_chance_level(chapter):
    assert chapter.claim("a", "First", SCORES, chance=None, dataset="made up").chance is None


@pytest.mark.parametrize(
    "values",
    [
        SCORES.tolist(),
        SCORES.astype(np.float32),
        torch.tensor(SCORES),
        torch.tensor(SCORES, dtype=torch.float32, requires_grad=True),
        torch.tensor(SCORES, dtype=torch.bfloat16),
        pytest.param(
            torch.tensor(SCORES, device="cuda") if torch.cuda.is_available() else None,
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
        ),
    ],
    ids=["list", "float32", "tensor", "with gradient", "bfloat16", "cuda"],
)
def test_accuracies_may_be_of_any_kind(chapter, values):
    assert chapter.claim("a", "First", values, **OPTIONS).mean == pytest.approx(100 * SCORES.mean(), rel=2e-3)


def test_an_id_is_claimed_once(chapter):
    chapter.claim("a", "First", SCORES, **OPTIONS)
    with pytest.raises(ValueError, match="already claims 'a'"):
        chapter.claim("a", "Again", SCORES, **OPTIONS)
    with pytest.raises(ValueError, match="already claims 'a'"):
        chapter.compare("a", "Again", SCORES, SCORES - 0.1, dataset="made up")


@pytest.mark.parametrize("values", [[0.5, 1.01], [-0.01, 0.5], [91.2, 90.0], [0.5, math.nan], [0.5, math.inf]])
def test_accuracies_are_fractions(chapter, displayed, values):
    with pytest.raises(ValueError, match="fractions in"):
        chapter.claim("a", "First", values, **OPTIONS)
    assert not chapter.claims and not displayed


@pytest.mark.parametrize("values", [[], [0.5], [[0.5, 0.6]], 0.5])
def test_accuracies_are_a_list(chapter, values):
    with pytest.raises(ValueError, match="at least two samples"):
        chapter.claim("a", "First", values, **OPTIONS)


def test_a_comparison_is_paired(chapter):
    generator = np.random.default_rng(1)
    better = SCORES + generator.normal(0.05, 0.01, 400)  # the same hard and easy episodes
    made = chapter.compare("a", "Better minus worse", torch.tensor(better.clip(0, 1)), SCORES, dataset="made up")
    assert (made.kind, made.chance, made.n) == ("difference", 0.0, 400)
    assert made.mean == pytest.approx(100 * (better.clip(0, 1) - SCORES).mean())
    assert made.ci95 < 0.3 * math.sqrt(2) * 100 * interval(SCORES)[1], "pairing takes out what episodes share"
    assert made.value().startswith("+") and made.value().endswith("points")


def test_a_comparison_without_a_direction(chapter):
    made = chapter.compare("a", "Either way", SCORES - 0.1, SCORES, dataset="made up", at_least=None)
    assert made.chance is None and made.mean == pytest.approx(-10.0)
    assert agreement(asdict(made), asdict(made)).ok


def test_a_comparison_needs_pairs(chapter):
    with pytest.raises(ValueError, match=r"as many samples of each; got \(400,\), \(399,\)"):
        chapter.compare("a", "Better", SCORES, SCORES[1:], dataset="made up")


@pytest.mark.parametrize(("better", "worse"), [(100 * SCORES, SCORES), (SCORES, 100 * SCORES)])
def test_a_comparison_is_of_fractions(chapter, better, worse):
    with pytest.raises(ValueError, match="fractions"):
        chapter.compare("a", "Better", better, worse, dataset="made up")


def test_the_seed_can_be_chosen(records, displayed, monkeypatch):
    monkeypatch.setenv("COURSE_SEED", "3")
    chapter = Chapter("01_small")
    assert chapter.seed == 3
    assert chapter.claim("a", "First", SCORES, **OPTIONS).seed == 3


def test_the_measured_spread_comes_from_the_record(records, displayed):
    spread = {"sd": 0.4, "seeds": [1, 2, 3, 4, 5], "means": [1.0] * 5}
    records["claims/01_small"] = {"claims": {}, "spread": {"a": spread}}
    chapter = Chapter("01_small")
    assert chapter.claim("a", "First", SCORES, **OPTIONS).spread == spread
    assert chapter.claim("b", "Second", SCORES, **OPTIONS).spread is None


def run(records, *samples):
    """A chapter that claims a, b, ... with these samples, each or none."""
    chapter = Chapter("01_small")
    for id, values in zip("abcde", samples, strict=False):
        if values is not None:
            chapter.claim(id, f"Claim {id}", values, **OPTIONS)
    return chapter


def record_of(chapter):
    return {"claims": {id: asdict(made) for id, made in chapter.claims.items()}, "spread": {}}


def closing(displayed):
    [bundle] = [bundle for bundle, _ in displayed if CHECK_MIME in bundle]
    return bundle


def test_a_rerun_that_agrees(records, displayed):
    records["claims/01_small"] = record_of(run(records, SCORES, SCORES - 0.1))
    run(records, SCORES, SCORES - 0.1).check()
    bundle = closing(displayed)
    assert bundle[CHECK_MIME] == {"shows": "claims", "chapter": "01_small", "disagree": []}
    assert bundle["text/plain"].startswith("2 of 2 claims agree with the book.\n")
    assert bundle["text/plain"].count(" yes") == 2
    assert "<td>yes</td>" in bundle["text/html"]


def test_a_rerun_that_disagrees_is_told_why(records, displayed):
    records["claims/01_small"] = record_of(run(records, SCORES, SCORES - 0.1))
    chapter = run(records, SCORES - 0.06, SCORES - 0.1)
    chapter.check()
    bundle = closing(displayed)
    assert bundle[CHECK_MIME]["disagree"] == ["a"]
    assert "1 of 2 claims agree with the book. Not: a." in bundle["text/plain"]
    assert "NO: " in bundle["text/plain"] and "standard errors from the stored" in bundle["text/plain"]
    assert chapter.agreements()["b"].ok


def test_a_claim_that_only_one_side_makes_disagrees(records, displayed):
    records["claims/01_small"] = record_of(run(records, SCORES, SCORES))
    run(records, SCORES, None, SCORES).check()
    bundle = closing(displayed)
    assert bundle[CHECK_MIME]["disagree"] == ["b", "c"]
    assert "not claimed by this run" in bundle["text/plain"]
    assert "not among the book's claims" in bundle["text/plain"]


def test_a_rerun_without_any_claim_disagrees(records, displayed):
    records["claims/01_small"] = record_of(run(records, SCORES))
    run(records).check()
    assert closing(displayed)[CHECK_MIME]["disagree"] == ["a"]


@pytest.mark.parametrize("why", ["no record", "writing"])
def test_while_the_book_is_written_nothing_is_compared(records, displayed, monkeypatch, why):
    if why == "writing":
        records["claims/01_small"] = record_of(run(records, SCORES - 0.3))
        monkeypatch.setenv("COURSE_WRITING", "1")
    run(records, SCORES).check()
    bundle = closing(displayed)
    assert bundle[CHECK_MIME]["disagree"] is None
    assert "the book's own numbers" in bundle["text/plain"] and "agrees" not in bundle["text/plain"]


def test_the_table_is_aligned_and_escaped(records, displayed):
    chapter = Chapter("01_small")
    chapter.claim("a", "x < y", SCORES, **OPTIONS)
    chapter.claim("b", "A longer title", SCORES, **OPTIONS)
    bundle = check_bundle(chapter, None)
    lines = bundle["text/plain"].splitlines()[2:]
    assert [line.index(value) for line, value in zip(lines, ("this run", "85", "85"), strict=True)] == [16, 16, 16]
    assert "x &lt; y" in bundle["text/html"]


def test_the_cost(records, displayed):
    Chapter("01_small").cost()
    assert "has not been recorded yet" in displayed[-1][0]["text/plain"]
    made = {"threads": 1, "device": "CPU (x86_64)", "torch": "2.15.0+cpu", "date": "2026-11-21T12:00:00Z"}
    record = {"cost": {"seconds": 71.6, "peak_bytes": 1_260_000_000}, "provenance": made}
    records["claims/01_small"] = {"claims": {}, **record}
    Chapter("01_small").cost()
    text = (
        "Running this chapter took 72 s and 1.3 GB of memory on 1 thread of a CPU (x86_64) with torch 2.15.0 "
        "(2026-11-21)."
    )
    assert displayed[-1][0] == cost_bundle(record)
    assert displayed[-1][0]["text/plain"] == text and text in displayed[-1][0]["text/html"]
    assert displayed[-1][0][CHECK_MIME] == {"shows": "cost", "disagree": []}


def test_outside_a_notebook_a_claim_is_printed(records, capsys):
    made = Chapter("01_small").claim("a", "First", SCORES, **OPTIONS)
    assert capsys.readouterr().out == f"{made.bundle()['text/plain']}\n"
