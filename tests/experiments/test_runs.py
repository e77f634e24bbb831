import pytest

from experiments.runs import run_all

FLAGS = ["--model=popularity", "--synthetic_users=30", "--synthetic_items=20", "--synthetic_interactions=300"]


@pytest.mark.parametrize("chosen", [None, "elsewhere"])
def test_compiled_programs_are_kept_beside_the_runs_unless_a_folder_is_chosen(tmp_path, monkeypatch, chosen):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    if chosen:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / chosen))
    else:
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    run_all({tmp_path / "runs" / "popularity": FLAGS})
    assert (tmp_path / "runs" / "popularity" / "results.json").exists()
    folders = [folder.name for folder in tmp_path.glob("**/") if any(folder.glob("jit_*"))]
    assert folders == [chosen or ".compiled"]
