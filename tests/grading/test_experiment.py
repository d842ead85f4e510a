"""The experiment run again: accuracies come of predictions and labels that stayed; claims are held against them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_lab import LEVEL, REFERENCE, handed_in, needs_sandbox, run_here, tiny_lab

from utils.grading import sandbox
from utils.grading.claims import Rerun
from utils.grading.documents import Document, read_document
from utils.grading.experiment import (
    Anchor,
    accuracies,
    accuracy_of,
    claims_of,
    expected,
    judge_claims,
    log_odds,
    rerun,
    scored,
    seeds_of,
    shifted,
)
from utils.grading.experiment import trials_of as trials_of_budget
from utils.grading.labs import find_labs, read_lab
from utils.grading.report import ClaimedResult, examine
from utils.grading.results import Experiment, Setting
from utils.grading.sandbox import Outcome
from utils.grading.selftest import record_expected
from utils.grading.wire import Record

LABS = find_labs(Path(__file__).parents[2] / "solutions")
each_lab = pytest.mark.parametrize("lab", LABS.values(), ids=LABS)


@pytest.fixture
def lab(tmp_path):
    return tiny_lab(tmp_path)


def trials_of(lab, count=2, budget="smoke"):
    numbers = dict(lab.experiment.budgets[budget].numbers)
    return {str(i): lab.inputs.trials(numbers, seed)[0] for i, seed in enumerate(seeds_of(5, count))}


def answered(lab, predict, count=2):
    """The accuracies where each trial is answered by ``predict(trial)``: arrays, or a text that it fails with."""
    trials, records = trials_of(lab, count), {}
    for name, trial in trials.items():
        answer = predict(trial)
        status, text, arrays = ("student_error", answer, ()) if isinstance(answer, str) else ("ok", "", tuple(answer))
        records[name] = Record(name, status, text, arrays)
    return scored(lab, Outcome("ok", "every call was answered", 3, records), trials)


def mean_of(found, setting):
    return float(np.mean(found.of[setting]))


# Running


@needs_sandbox
def test_two_trainings_run_in_one_sandbox(lab, tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr("utils.grading.experiment.run", lambda job, *rest: jobs.append(job) or sandbox.run(job, *rest))
    found = rerun(lab, handed_in(tmp_path / "s", lab.text_of()), "smoke", 3, LEVEL)
    assert len(jobs) == 1 and len(jobs[0].calls) == 2
    one, five = found.settings
    assert (found.verdict, found.level, found.seed, found.budget) == ("ok", LEVEL, 3, "smoke")
    assert (one.setting, one.verdict, one.episodes, one.seeds) == ("4-way 1-shot", "ok", 120, 2)
    assert 35 < one.mean < five.mean < 99 and five.sd > 1
    assert "of 120 episodes" in one.reason
    # the same numbers as when the reference is called here
    here = [
        100 * (np.asarray(lab.reference.experiment(*trial.arguments)[0]) == trial.labels["4-way 1-shot"]).mean()
        for seed in seeds_of(3, 2)
        for trial in lab.inputs.trials({"episodes": 120, "noise": 1.2}, seed)
    ]
    assert one.mean == pytest.approx(np.mean(here))
    with pytest.raises(ValueError, match=r"has the budgets .*; got 'huge'"):
        rerun(lab, tmp_path / "s", "huge", 3, LEVEL)


def test_the_trials_of_a_class_are_made_once(lab, monkeypatch):
    made, trials = [], lab.inputs.trials
    monkeypatch.setattr(
        lab.inputs, "trials", lambda numbers, seed: made.append((numbers, seed)) or trials(numbers, seed)
    )
    one, again, other = (trials_of_budget(lab, "smoke", seeds) for seeds in ((1, 2), (1, 2), (3, 2)))
    assert [seed for _, seed in made] == [1, 2, 3] and made[0][0] == {"episodes": 120, "noise": 1.2}
    assert list(one.values()) == list(again.values()) and one.keys() == other.keys()
    assert next(iter(other.values())) is not next(iter(one.values()))


def test_seeds_are_all_different():
    assert len({seed for start in range(100) for seed in seeds_of(start, 4)}) == 400
    assert seeds_of(7, 3)[:2] == seeds_of(7, 2)


@needs_sandbox
def test_what_stops_the_code_is_what_the_settings_say(lab, tmp_path):
    slow = REFERENCE + "\n\ndef experiment(tasks, seed):\n    while True:\n        pass\n"
    (lab.folder / "lab.toml").write_text((lab.folder / "lab.toml").read_text().replace("cpu = 20", "cpu = 1"))
    found = rerun(read_lab(lab.folder), handed_in(tmp_path / "s", slow), "smoke", 0, LEVEL)
    assert {found.verdict, *(setting.verdict for setting in found.settings)} == {"timeout"}
    assert all(setting.mean is None and "processor time" in setting.reason for setting in found.settings)


def test_a_machine_that_fails_is_nobodys_mistake(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "_python", lambda: ["/bin/false"])
    found = rerun(lab, handed_in(tmp_path / "s", lab.text_of()), "smoke", 0, LEVEL)
    assert {found.verdict, *(setting.verdict for setting in found.settings)} == {"infra_error"}


# Predictions


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda labels: [labels[0]], "returns 2 arrays of predictions, one a setting; these are 1"),
        (lambda labels: [labels[0][:, :3], labels[1]], r"have shape \[120, 20\]; these have \[120, 3\]"),
        (lambda labels: [labels[0].astype(float) * np.nan, labels[1]], "these are complex, infinite or not a number"),
        (lambda labels: [labels[0] * 1j, labels[1]], "these are complex"),
        (lambda labels: [labels[0] + 1, labels[1]], r"are labels 0 \.\. 3; these go from 1 to 4"),
        (lambda labels: [labels[0] - 1, labels[1]], "these go from -1 to 2"),
        (lambda labels: [labels[0] + 0.25, labels[1]], "not all whole"),
        (lambda labels: "RuntimeError: \x1b[31mno (line 3)", r"RuntimeError: no \(line 3\)"),
    ],
)
def test_predictions_of_another_form_are_the_students_error(lab, change, said):
    found = answered(lab, lambda trial: change(list(trial.labels.values())))
    assert found.verdict == "student_error" and "4-way 1-shot" not in found.of
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(found.missing["4-way 1-shot"][1])
    assert "4-way 1-shot: " in found.reason


def test_one_setting_that_fails_takes_no_other_along(lab):
    found = answered(lab, lambda trial: [trial.labels["4-way 1-shot"] + 9, trial.labels["4-way 5-shot"]])
    assert set(found.of) == {"4-way 5-shot"} and mean_of(found, "4-way 5-shot") == 100
    assert len(found.of["4-way 5-shot"]) == 2 and len(found.of["4-way 5-shot"][0]) == 120


def test_labels_as_numbers_of_any_kind_are_labels(lab):
    found = answered(lab, lambda trial: [labels.astype(np.float32) for labels in trial.labels.values()])
    assert found.verdict == "ok" and mean_of(found, "4-way 1-shot") == 100


# T30 to T32


def few(lab, seed):
    """Trials of the budget ``smoke``, of few episodes."""
    return lab.inputs.trials({**lab.experiment.budgets["smoke"].numbers, "episodes": 40}, seed)


@each_lab
def test_predictions_without_a_look_are_right_by_chance(lab):
    """T30: constants, positions and chance reach the chance level, and less than the floor, in every setting."""
    rng = np.random.default_rng(0)
    (trial,) = few(lab, 3)
    for target in lab.experiment.settings:
        labels = trial.labels[target.name]
        n_way = int(labels.max()) + 1
        guesses = [np.zeros_like(labels), np.arange(labels.size).reshape(labels.shape) % n_way]
        guesses += [np.sort(labels, 1), rng.integers(n_way, size=labels.shape), np.roll(labels, 1, 0)]
        for guess in guesses:
            right = 100 * (guess == labels).mean()
            assert abs(right - target.chance) < 5 * 100 * math.sqrt(target.chance / 100 / labels.size) + 0.5
            assert right < target.floor


@each_lab
def test_nothing_that_enters_the_sandbox_tells_the_labels(lab):
    """T31: no array that goes in is the labels, or tells them by its order; classes get new labels every episode."""
    (trial,) = few(lab, 4)

    def arrays(value):
        if isinstance(value, tuple):
            return [array for part in value for array in arrays(part)]
        return [value] if isinstance(value, np.ndarray) else []

    for labels in trial.labels.values():
        assert (np.diff(labels, axis=1) < 0).any(1).all()  # in no episode sorted
        assert len({tuple(episode) for episode in labels.tolist()}) > 30
        for array in arrays(trial.arguments):
            assert array.dtype != np.int64 or array.shape != labels.shape or (array == labels).mean() < 0.5


SEARCH = '''
import gc, os, sys
import numpy as np

def found(shape):
    """Every array of whole numbers of this shape that can be reached: objects, frames, files."""
    held = [o for o in gc.get_objects() if isinstance(o, np.ndarray)]
    for frame in sys._current_frames().values():
        while frame:
            for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
                values = value.values() if isinstance(value, dict) else [value]
                held += [v for v in values if isinstance(v, np.ndarray)]
            frame = frame.f_back
    for root in ("/job", "/sub", "/tmp", os.getcwd(), os.path.dirname(sys.modules["__main__"].__file__)):
        for folder, below, names in os.walk(root):
            if folder == sys.prefix:  # Python itself, which may lie in the temporary folder
                below.clear()
            for name in names:
                try:
                    with np.load(os.path.join(folder, name)) as file:
                        held += [file[key] for key in file.files]
                except Exception:
                    pass
    return [a for a in held if isinstance(a, np.ndarray) and a.shape == shape and a.dtype.kind == "i"]

def experiment(tasks, seed):
    answers = []
    for support_x, support_y, query_x, n_way in tasks:
        seen = found(query_x.shape[:2])
        print("found", len(seen))
        answers.append(seen[0] if seen else np.zeros(query_x.shape[:2], int))
    return answers
'''


@needs_sandbox
def test_a_search_for_labels_finds_none(lab, tmp_path):
    """T31: in memory, on the stack and in files, where the inputs themselves are found, there are no labels."""
    found = accuracies(lab, handed_in(tmp_path / "s", SEARCH), "smoke", seeds_of(1, 2), LEVEL)
    assert found.verdict == "ok", found
    for target in lab.experiment.settings:
        assert abs(mean_of(found, target.name) - target.chance) < 6 and mean_of(found, target.name) < target.floor
    inputs = SEARCH.replace("found(query_x.shape[:2])", "found(support_y.shape)").replace(
        "answers.append(seen[0] if seen", "assert seen\n        answers.append(seen[0] if False"
    )
    assert accuracies(lab, handed_in(tmp_path / "t", inputs), "smoke", seeds_of(1, 2), LEVEL).verdict == "ok"


def best_of(lab, count):
    """An experiment that was chosen for its luck: of ``count`` random directions the best on one's own data."""

    def experiment(direction, arguments):
        tasks, _ = arguments
        return [
            np.stack(
                [
                    lab.reference.nearest(q @ direction, lab.reference.means(x @ direction, y, n))
                    for x, y, q in zip(xs, ys, qs, strict=True)
                ]
            )
            for xs, ys, qs, n in tasks
        ]

    arguments, labels = lab.inputs.data(8, 1.2, seed=0)  # few episodes, as one does who looks for luck
    directions = np.random.default_rng(0).normal(0, 1, (count, 3, 1))
    scores = [
        [
            100 * (answer == right).mean()
            for answer, right in zip(experiment(d, arguments), labels.values(), strict=True)
        ]
        for d in directions
    ]
    best = max(range(count), key=lambda i: sum(scores[i]))
    return scores[best], lambda trial: experiment(directions[best], trial.arguments)


def test_the_luck_of_one_seed_does_not_come_again(lab, recorded):
    """T32: the best of 100 seeds is not what the rerun reaches, and a claim of it is not reproduced."""
    claimed, predict = best_of(lab, 100)
    found = answered(lab, predict, 4)
    reached = [mean_of(found, target.name) for target in lab.experiment.settings]
    print(claimed, reached)
    assert np.mean(claimed) > np.mean(reached) + 5
    honest = {c: judged(recorded, found, c) for c in (1, -1)}
    assert all(each.outcome != "not reproduced" for each in honest[1])
    lucky = judged(recorded, found, 1, claimed)
    assert "not reproduced" in [each.outcome for each in lucky], lucky


def judged(recorded, found, sign, values=None):
    """Judgements of claims of these values, or of what the rerun reached a point higher or lower, at ``full``."""
    settings = []
    for target in recorded.experiment.settings:
        again = Rerun.of(found.of[target.name])
        settings.append(Setting(target.name, "ok", "", again.mean, again.sd, again.episodes, again.seeds))
    experiment = Experiment("ok", "", 3, 0, "full", tuple(settings))
    values = values or [setting.mean + sign for setting in settings]
    claims = tuple(
        result(value=round(value, 1), n_way=4, k_shot=target.k_shot)
        for value, target in zip(values, recorded.experiment.settings, strict=True)
    )
    return judge_claims(recorded, reported(*claims), experiment)


# The reference's accuracies


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The tiny lab with its ``expected.json``; its reference is ours, so that it can run here."""
    lab = tiny_lab(tmp_path_factory.mktemp("recorded"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.grading.experiment.run", run_here)
        record_expected(lab, range(8), range(20, 22), LEVEL)
    return lab


def test_what_the_reference_reaches_is_recorded(recorded):
    record = json.loads(recorded.expected_file.read_text())
    assert record["digest"] == recorded.experiment_digest() and record["seeds"] == list(range(8))
    assert record["provenance"]["python"] and record["level"] == LEVEL
    anchors = expected(recorded)
    assert list(anchors) == ["4-way 1-shot", "4-way 5-shot"]
    one = anchors["4-way 1-shot"]
    assert len(one.means["smoke"]) == len(one.means["full"]) == 8 and len(set(one.means["smoke"])) > 4
    assert one.episodes == {"smoke": 120, "full": 240} and len(one.gains) == 3
    assert np.mean(one.means["full"]) > np.mean(one.means["smoke"]) + 3 and all(gain > 0 for gain in one.gains)
    entry = record["settings"]["4-way 1-shot"]["budgets"]["full"]
    assert entry["mean"] == pytest.approx(np.mean(entry["means"]), abs=1e-3)
    assert entry["sd"] == pytest.approx(np.std(entry["means"], ddof=1), abs=1e-3)


def test_a_record_of_another_reference_is_refused(recorded, tmp_path):
    assert expected(tiny_lab(tmp_path / "without")) == {}
    other = tiny_lab(tmp_path, reference=REFERENCE.replace("SHRINK = 1.0", "SHRINK = 0.9"))
    other.expected_file.write_bytes(recorded.expected_file.read_bytes())
    with pytest.raises(ValueError, match="recorded for another reference"):
        expected(other)


def test_a_spread_takes_seeds(lab):
    with pytest.raises(ValueError, match="takes 8 of them, a gain 2"):
        record_expected(lab, range(7), range(2))
    with pytest.raises(ValueError, match="takes 8 of them"):
        record_expected(lab, [1] * 8, range(2))
    with pytest.raises(ValueError, match="a gain 2"):
        record_expected(lab, range(8), range(1))


# From one budget to the other

ANCHOR = Anchor(
    {
        "smoke": (84.0, 86.0, 85.0, 86.0, 84.0, 85.0, 86.5, 83.5),
        "full": (93.0, 94.0, 93.5, 94.5, 93.5, 92.5, 93.5, 93.5),
    },
    {"smoke": 10.0, "full": 7.0},
    {"smoke": 60, "full": 600},
    (0.95, 0.9, 1.0, 0.85, 0.8),
)


def test_log_odds_and_back():
    assert accuracy_of(log_odds(73.0)) == pytest.approx(73.0) and log_odds(50.0) == 0
    assert math.isfinite(log_odds(100.0)) and math.isfinite(log_odds(0.0))


def test_a_rerun_is_shifted_by_what_the_reference_gained():
    again = Rerun(85.0, 10.0, 60, 2)
    then, spread = shifted(again, ANCHOR, "smoke")
    assert then.mean == pytest.approx(accuracy_of(log_odds(85.0) + 0.9)) and then.mean == pytest.approx(93.3, abs=0.1)
    assert then.seeds == 2 and then.sd == 7.0
    # the error by episodes: that of the rerun, times the slope between the two scales
    slope = (shifted(replace(again, mean=85.01), ANCHOR, "smoke")[0].mean - then.mean) / 0.01
    assert then.sd / math.sqrt(then.episodes) == pytest.approx(slope * 10 / math.sqrt(60), rel=0.02)
    # the gain of a network that nobody measured is a part of the spread
    alike = replace(ANCHOR, gains=(0.9,) * 5)
    assert shifted(again, alike, "smoke")[1].sd < spread.sd
    assert spread.sd > ANCHOR.spread("full").sd / math.sqrt(1.5)
    assert shifted(again, ANCHOR, "full") == (again, ANCHOR.spread("full"))


@pytest.mark.parametrize("mean", [0.0, 20.0, 99.9, 100.0])
def test_a_shifted_accuracy_stays_one(mean):
    then, spread = shifted(Rerun(mean, 0.0, 60, 2), ANCHOR, "smoke")
    assert 0 <= then.mean <= 100 and math.isfinite(spread.sd) and spread.freedom >= 1 and then.episodes == 60


# Claims of a report


def result(**changed):
    base = dict(
        metric="accuracy", value=60.0, interval=1.0, step=0.1, n=600, over="episodes", n_way=4, k_shot=1, scenario="",
        dataset="", method="", cited=False, label="", where="line 1", text="",
    )  # fmt: skip
    return ClaimedResult(**{**base, **changed})


EMPTY = examine(Document(".md", "ok", "", 1, ()))


def reported(*claims):
    return replace(EMPTY, claims=claims)


def test_claims_of_a_setting_are_found(lab):
    claims = claims_of(
        lab,
        reported(
            result(value=70.0),
            result(value=72.0, n=3, over="seeds", interval=None),
            result(value=71.0),
            result(value=99.0, cited=True),
            result(value=98.0, metric="error"),
            result(value=120.0),
            result(value=97.0, n_way=5),
            result(value=80.5, k_shot=5, n=0, interval=400.0, step=100.0),
        ),
    )
    assert [(c.setting, c.value, c.episodes, c.ci95) for c in claims] == [
        ("4-way 1-shot", 72.0, None, None), ("4-way 5-shot", 80.5, None, None),
    ]  # fmt: skip
    assert claims_of(lab, reported()) == []
    twice = reported(result(n=None, over=""), result(n=500), result(n=4, over="seeds"))
    assert [(c.value, c.episodes) for c in claims_of(lab, twice)] == [(60.0, 500)]


@pytest.mark.parametrize(
    ("labels", "claimed"),
    [
        (("MAML | after 150 steps (%)", "MAML | after 600 steps (%)"), 70.0),
        (("smoke | accuracy", "full | accuracy"), 70.0),
        (("smoke | accuracy", "smoke | accuracy, again"), 72.0),  # there is nothing else
        (("MAML | after 300 steps", "MAML | after 600 steps"), 72.0),
        (("from 150 to 600 steps", "600 steps"), 72.0),
    ],
)
def test_a_short_training_is_not_what_is_claimed(lab, labels, claimed):
    """The higher number counts, but not that of the budget ``smoke``, which may be the higher one by chance."""
    budgets = {
        name: replace(lab.experiment.budgets[name], numbers={"steps": steps})
        for name, steps in (("smoke", 150), ("full", 600))
    }
    lab = replace(lab, experiment=replace(lab.experiment, budgets=budgets))
    values = zip(labels, (72.0, 70.0), strict=True)
    (claim,) = claims_of(lab, reported(*(result(label=label, value=value) for label, value in values)))
    assert claim.value == claimed
    (in_text,) = claims_of(lab, reported(*(result(text=t, value=v) for t, v in zip(labels, (72.0, 70.0), strict=True))))
    assert in_text.value == claimed


def test_a_setting_may_ask_for_more_than_ways_and_shots(lab):
    target = replace(lab.experiment.settings[0], method="replay", scenario="class-incremental", dataset="digits")
    asked = replace(lab, experiment=replace(lab.experiment, settings=(target,)))
    fitting = result(method="Replay", scenario="class-incremental", dataset="digits")
    assert len(claims_of(asked, reported(fitting))) == 1
    for other in ({"method": "ewc"}, {"scenario": ""}, {"dataset": "glyphs"}):
        assert claims_of(asked, reported(replace(fitting, **other))) == []


@needs_sandbox
def test_honest_claims_are_reproduced_and_inflated_ones_are_not(recorded, tmp_path):
    """At ``full``, judged by a rerun at ``smoke``."""
    found = rerun(recorded, handed_in(tmp_path, recorded.text_of()), "smoke", 11, LEVEL)
    honest = [np.mean(expected(recorded)[t.name].means["full"]) for t in recorded.experiment.settings]

    def outcomes(by):
        pairs = zip(honest, recorded.experiment.settings, strict=True)
        claims = [result(value=round(min(100, v + by), 1), k_shot=t.k_shot, n=240) for v, t in pairs]
        return [each.outcome for each in judge_claims(recorded, reported(*claims), found)]

    assert outcomes(0) == ["reproduced"] * 2
    assert set(outcomes(14)) == {"not reproduced"}
    assert set(outcomes(-25)) == {"under-claimed"}


def test_what_was_not_rerun_is_not_testable(recorded, lab):
    failed = tuple(Setting(target.name, "timeout", "took too long") for target in lab.experiment.settings)
    claims = reported(result(), result(k_shot=5))
    for each in judge_claims(recorded, claims, Experiment("timeout", "", 3, 0, "smoke", failed)):
        assert each.outcome == "not testable" and "took too long" in each.reason
    run = tuple(Setting(target.name, "ok", "", 60.0, 10.0, 30, 2) for target in lab.experiment.settings)
    for each in judge_claims(lab, claims, Experiment("ok", "", 3, 0, "smoke", run)):
        assert each.outcome == "not testable" and "spread" in each.reason  # this lab has no expected.json


# The labs of the course


def model_report(lab):
    text = lab.report_file
    return examine(read_document(text), handed_in=["lab.py"])


@each_lab
def test_the_model_report_claims_what_was_recorded(lab):
    """Every accuracy of the model report is the recorded one, and reproduced by reruns of every recorded seed."""
    anchors, report = expected(lab), model_report(lab)
    claims = claims_of(lab, report)
    assert [claim.setting for claim in claims] == [target.name for target in lab.experiment.settings]
    for claim in claims:
        assert claim.value == pytest.approx(np.mean(anchors[claim.setting].means["full"]), abs=0.05)
        assert claim.episodes == anchors[claim.setting].episodes["full"]
    for i in range(0, min(len(anchor.means["smoke"]) for anchor in anchors.values()) - 1, 2):
        settings = []
        for name, anchor in anchors.items():
            mean = float(np.mean(anchor.means["smoke"][i : i + 2]))
            sd, episodes = anchor.episode_sd["smoke"], anchor.episodes["smoke"]
            settings.append(Setting(name, "ok", "", mean, sd, episodes, 2))
        judgements = judge_claims(lab, report, Experiment("ok", "", 3, 0, "smoke", tuple(settings)))
        assert {each.outcome for each in judgements} == {"reproduced"}, judgements


@each_lab
def test_honest_students_are_left_alone_and_over_claims_are_noticed(lab):
    """Of students whose networks learn as the reference and the variants do, some better and some worse than those.

    Honest ones: 1 % flagged at most. Claims that are all 5 points too high: nine in ten noticed.
    """
    generator, anchors, students = np.random.default_rng(0), expected(lab), 200

    def flagged(inflation):
        count = 0
        for _ in range(students):
            claims, settings, better = [], [], generator.normal(0, 0.3)
            for target in lab.experiment.settings:
                anchor = anchors[target.name]
                odds = log_odds(np.mean(anchor.means["smoke"])) + better
                gain = generator.normal(np.mean(anchor.gains), np.std(anchor.gains, ddof=1))
                seen = {}
                for budget, middle, trainings in (("smoke", odds, 2), ("full", odds + gain, 1)):
                    error = anchor.episode_sd[budget] / math.sqrt(anchor.episodes[budget])
                    spread = math.hypot(anchor.spread(budget).sd, error)
                    reached = accuracy_of(middle) + generator.normal(0, spread, trainings)
                    seen[budget] = float(np.clip(reached, 0, 100).mean())
                claim = round(min(100.0, seen["full"] + inflation), 1)
                asked = {"n_way": target.n_way, "k_shot": target.k_shot, "scenario": target.scenario}
                asked |= {"dataset": target.dataset, "method": target.method}
                claims.append(result(value=claim, n=anchor.episodes["full"], **asked))
                sd, episodes = anchor.episode_sd["smoke"], anchor.episodes["smoke"]
                settings.append(Setting(target.name, "ok", "", seen["smoke"], sd, episodes, 2))
            judgements = judge_claims(lab, reported(*claims), Experiment("ok", "", 3, 0, "smoke", tuple(settings)))
            count += any(each.outcome == "not reproduced" for each in judgements)
        return count / students

    honest, inflated = flagged(0), flagged(5)
    print(f"{lab.name}: honest {100 * honest:.1f} %, 5 points too high {100 * inflated:.1f} %")
    # with 1 % of 200 students, more than 5 would be beyond chance (98.4 %)
    assert honest <= 0.025 and inflated >= 0.9


@each_lab
def test_the_model_report_is_as_the_lecture_asks(lab):
    report = model_report(lab)
    assert report.readable and report.title and report.people
    assert [s for s in report.sections if s.state != "present"] == []
    assert report.worse.reported and report.figures and report.tables and not report.source.absent
    assert report.source.files == ("lab.py",) and not report.hidden and not report.notes
