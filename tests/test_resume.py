import dataclasses
import json

import pytest

from diffrec_jax.config import DataConfig, make_run_config
from diffrec_jax.resume import plan_start
from diffrec_jax.training.run_directory import RunDirectory, RunDirectoryError
from tests import rated_data

DATA = DataConfig("synthetic", "clean", None, {"num_users": 60, "num_items": 40, "num_interactions": 900, "seed": 0})


@pytest.fixture
def dataset():
    return DATA.load()


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(tmp_path / "run")


def config(data=DATA, model="diffrec", **settings):
    return make_run_config(model, data, ks=(5,), **settings)


def test_an_empty_directory_begins_a_run(dataset, directory):
    start = plan_start(config(), dataset, directory, resume=True)
    assert not start.resumes and start.results is None and not directory.exists()
    start.write()
    assert directory.config() == json.loads(json.dumps(start.stored))


def test_a_run_goes_on_only_when_asked_to(dataset, directory):
    plan_start(config(), dataset, directory, resume=False).write()
    assert plan_start(config(), dataset, directory, resume=True).resumes
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        plan_start(config(), dataset, directory, resume=False)


def test_a_run_of_another_configuration_is_refused(dataset, directory):
    plan_start(config(), dataset, directory, resume=False).write()
    with pytest.raises(RunDirectoryError, match=r"training\.lr"):
        plan_start(config(lr=0.5), dataset, directory, resume=True)


@pytest.mark.parametrize("noise", [{"random_noise": 0.3}, {"random_noise": 0.2, "random_noise_seed": 1}, {}])
def test_a_run_on_other_noise_is_refused(directory, noise):
    before, other = dataclasses.replace(DATA, random_noise=0.2), dataclasses.replace(DATA, **noise)
    plan_start(config(before), before.load(), directory, resume=False).write()
    assert plan_start(config(before), before.load(), directory, resume=True).resumes
    with pytest.raises(RunDirectoryError, match=r"data\.random_noise.* data_sha256"):
        plan_start(config(other), other.load(), directory, resume=True)


def test_a_finished_run_gives_its_results_until_more_is_asked_for(dataset, directory):
    plan_start(config(epochs=2), dataset, directory, resume=False).write()
    directory.write_results({"test": {"recall@5": 0.25}})
    assert plan_start(config(epochs=2), dataset, directory, resume=True).results["test"] == {"recall@5": 0.25}
    more = plan_start(config(epochs=3), dataset, directory, resume=True)
    assert more.resumes and more.results is None


def test_another_version_goes_on_with_a_warning_and_keeps_its_name_in_finished_results(dataset, directory):
    start = plan_start(config(), dataset, directory, resume=False)
    start.write()
    directory.update_config(start.stored | {"version": "0.0.1"})
    again = plan_start(config(), dataset, directory, resume=True)
    assert len(again.warnings) == 1 and "run of version 0.0.1" in again.warnings[0]
    again.write_location()
    assert directory.config()["version"] == "0.0.1"


def test_settings_that_are_newer_than_a_run_count_as_their_defaults(dataset, directory):
    plan_start(config(epochs=2), dataset, directory, resume=False).write()
    stored = directory.config()
    for part, name in (
        ("training", "on_nonfinite"),
        ("recommender", "noise_law"),
        ("recency", "row_values"),
        ("data", "random_noise"),
        ("data", "ratings"),
        ("data", "min_relevant_rating"),
    ):
        del stored[part][name]
    directory.update_config(stored)
    directory.write_results({"test": {"recall@5": 0.25}})
    assert plan_start(config(epochs=2), dataset, directory, resume=True).results is not None
    with pytest.raises(RunDirectoryError, match=r"training.on_nonfinite \(abort there, skip asked for\)"):
        plan_start(config(epochs=2, on_nonfinite="skip"), dataset, directory, resume=True)


def test_settings_of_rows_that_are_newer_than_a_run_of_a_model_without_rows(dataset, directory):
    plan_start(config(model="sasrec"), dataset, directory, resume=False).write()
    stored = directory.config()
    del stored["recency"]["row_values"]
    directory.update_config(stored)
    assert plan_start(config(model="sasrec"), dataset, directory, resume=True).resumes


def test_a_run_of_other_ratings_is_refused(directory):
    """Also where its rows hold ones: what is relevant may depend on them."""
    rated = rated_data.DATASET
    for row_values in ("ones", "residuals"):
        own = RunDirectory(directory.path / row_values)
        plan_start(config(row_values=row_values), rated, own, resume=False).write()
        assert plan_start(config(row_values=row_values), rated, own, resume=True).resumes
        reversed_ratings = {split: values[::-1] for split, values in rated.ratings.items()}
        for other in ({"ratings": reversed_ratings}, {"min_relevant_rating": 4}):
            with pytest.raises(RunDirectoryError, match="data_sha256"):
                plan_start(config(row_values=row_values), dataclasses.replace(rated, **other), own, resume=True)
