"""Which notebook needs which, and what a profile may say."""

import shutil

from ae_lib import StudyError
from ae_lib.run import MODELS
from ae_lib.study import graph
from tests.study.small_project import BODIES, PARAMETERS, replace

import pytest

SMALL = ("notebooks", "params", "small.yaml")


@pytest.fixture
def small(new_project):
    return new_project.joinpath(*SMALL)


# ------------------------------ the study itself
def test_every_notebook_of_the_study_has_a_line_and_every_line_a_notebook():
    scripts = {path.stem for path in graph.FOLDER.glob("[0-9]*.py")}
    assert set(graph.NEEDS) == scripts
    makers = {*scripts, graph.MODEL}
    assert all(set(needs) <= makers for needs in graph.NEEDS.values())
    assert set(MODELS.values()) <= scripts


@pytest.mark.parametrize("path", sorted(graph.PARAMS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studys_own_profiles_are_valid(path):
    profile = graph.load_profile(path.stem)
    assert set(profile.parameters) == set(graph.notebooks_of(path.stem)) == set(profile.needs)
    for name, parameters in profile.parameters.items():
        assert parameters["profile"] == path.stem
        assert set(parameters) == set(graph.declared_parameters(name))


def test_mnist_is_the_scripts_defaults():
    for name, parameters in graph.load_profile("mnist").parameters.items():
        defaults = {key: default for key, (_, default) in graph.declared_parameters(name).items()}
        assert parameters == defaults | {"profile": "mnist"}


def test_some_notebooks_have_a_profile_of_their_own():
    for notebook, profile in graph.OWN_PROFILE.items():
        assert graph.notebooks_of(profile) == [notebook]
        assert notebook not in graph.notebooks_of("mnist")
    assert graph.notebooks_of("mnist") == graph.notebooks_of("digits")


@pytest.mark.parametrize("model", MODELS)
def test_a_notebook_needs_the_one_that_trains_its_model_and_is_executed_after_it(small, model):
    for maker in ("09_train_convolutional", "10_denoise", "11_train_variational"):
        (graph.FOLDER / f"{maker}.py").write_text(PARAMETERS)
    small.write_text(f"all:\n  model: {model}\n")
    profile = graph.load_profile("small")
    assert set(profile.needs["03_evaluate"]) == {MODELS[model], "02_train"}
    order = list(profile.parameters)
    for name, needs in profile.needs.items():
        assert all(order.index(need) < order.index(name) for need in needs)


def test_a_profile_restricted_to_some_notebooks_has_those_that_they_need(small):
    profile = graph.load_profile("small").restricted_to(["03_evaluate"])
    assert list(profile.parameters) == ["02_train", "03_evaluate"]
    assert profile.needs == {"02_train": (), "03_evaluate": ("02_train",)}


# ------------------------------ C2: nothing is read from code
def test_what_a_script_says_adds_no_need_and_takes_none(small):
    before = graph.load_profile("small").needs
    replace(
        graph.FOLDER / "03_evaluate.py",
        ".artifact(",
        ".model(model) or Run(profile, '3').artifact(",
    )
    with (graph.FOLDER / "01_preprocess.py").open("a") as script:
        script.write('# run.artifact("03_evaluate/model.json"), run.trained(model=model)\n')
    assert graph.load_profile("small").needs == before


def test_a_notebook_without_a_line_in_the_graph_is_one_sentence(small):
    (graph.FOLDER / "14_new.py").write_text(PARAMETERS)
    with pytest.raises(StudyError, match=r"notebooks/14_new.py has no line in NEEDS .*: add it\.$"):
        graph.load_profile("small")


def test_a_notebook_without_the_parameter_profile_is_one_sentence(small):
    replace(graph.FOLDER / "02_train.py", 'profile: str = "mnist"  # folder\n', "")
    with pytest.raises(StudyError, match=r"02_train.py has no parameter profile; .*: add it\.$"):
        graph.load_profile("small")


def test_notebooks_that_wait_for_each_other_are_refused(small, monkeypatch):
    monkeypatch.setitem(graph.NEEDS, "02_train", ["03_evaluate"])
    with pytest.raises(StudyError, match="needs .* needs .*; expected notebooks that do not wait"):
        graph.load_profile("small")


def test_a_needed_notebook_that_is_not_there_is_refused(small):
    small.write_text("all:\n  model: conv\n")
    with pytest.raises(StudyError, match="09_train_convolutional is needed, and small does not"):
        graph.load_profile("small")


# ------------------------------ mistakes in a profile
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("02_train:\n  epoch: 4\n", "sets epoch in section 02_train to 4, which has no such"),
        ("02_train:\n  epoch: 4\n", "expected one of epochs, rate, seed, sizes."),
        ("all:\n  latent: 4\n", "sets latent in section all"),
        ("02_train:\n  epochs: four\n", "to 'four', which is str; expected int"),
        ("02_train:\n  epochs: true\n", "to True, which is bool; expected int"),
        ("02_train:\n  sizes: 3\n", "to 3, which is int; expected list"),
        ("02_train:\n  rate: fast\n", "to 'fast', which is str; expected float"),
        ("all:\n  seed: -1\n", "to -1; expected a whole number from 0 to 2³¹"),
        ("all:\n  seed: 2147483648\n", "to 2147483648; expected a whole number from 0 to 2³¹"),
        ("all:\n  model: cnn\n", "to 'cnn'; expected one of dense, scheduled"),
        ("02_train:\n  profile: other\n", "sets profile in section 02_train"),
        ("2_train:\n  epochs: 4\n", "has a section '2_train'; expected all or one of 01_preproc"),
        ("02_train: 4\n", "must map notebook names to parameters"),
        ("[1]\n", "must map notebook names to parameters"),
        ("02_train: [\n", "is not valid YAML"),
        ("all: {seed: 1, seed: 2}\n", "duplicate key"),
    ],
)
def test_mistakes_in_a_profile_are_one_sentence_before_anything_runs(
    small, study, content, message
):
    small.write_text(content)
    code, errors = study("report", "small")
    assert code == 1
    assert message in errors
    assert errors.startswith("error: small.yaml ")
    assert errors.count("\n") == 1
    assert not (graph.FOLDER.parent / "reports").exists()


def test_numbers_are_written_as_in_python(small):
    small.write_text("02_train: {rate: 1e-3, sizes: [1, 2]}\n")
    parameters = graph.load_profile("small").parameters["02_train"]
    assert (parameters["rate"], parameters["sizes"]) == (0.001, [1, 2])
    assert [type(parameters[key]) for key in ("rate", "sizes")] == [float, list]


def test_unknown_profile_is_refused(small):
    with pytest.raises(
        StudyError, match="There is no profile 'smal'; expected one of mnist, small"
    ):
        graph.load_profile("smal")


@pytest.mark.parametrize("name", sorted(graph.RESERVED))
def test_a_profile_may_not_write_where_others_results_are(small, name):
    shutil.copy(small, small.with_name(f"{name}.yaml"))
    with pytest.raises(StudyError, match=f"{name}.yaml would write to reports/{name}; .*: rename"):
        graph.load_profile(name)


def test_profile_by_path_has_its_own_name(tmp_path):
    shutil.copy(graph.PARAMS / "digits.yaml", tmp_path / "other.yaml")
    profile = graph.load_profile(str(tmp_path / "other.yaml"))
    assert profile.name == "other"
    assert profile.parameters["02_train"]["profile"] == "other"
    assert profile.parameters["02_train"]["dataset"] == "digits"


def test_the_same_script_gives_the_same_notebook(new_project):
    for name in BODIES:
        first, second = graph.read_notebook(name), graph.read_notebook(name)
        assert first == second
        ids = [cell.id for cell in first.cells]
        assert len(set(ids)) == len(ids)
