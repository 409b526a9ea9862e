"""What torchrun and SLURM say in the environment, and what it means for a run."""

import pytest

from denseteacher.data.records import LabeledImages
from denseteacher.errors import InputError
from denseteacher.hardware import Machine
from denseteacher.recipes import resolve
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.folder_choice import goes_on_by_itself
from denseteacher.training.launcher import find_launch

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True", "LOCAL_WORLD_SIZE": "2"}
SRUN = {"SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4"}
BATCHES = ["data.labeled_batch=16", "data.unlabeled_batch=16"]


@pytest.fixture
def launched(monkeypatch):
    """The devices and nodes of a recipe, in an environment."""

    def in_environment(environment, *overrides):
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        recipe = load_recipe("custom", [*BATCHES, *overrides])
        nothing, machine = LabeledImages([], [], [], []), Machine("cpu", has_bf16=bool)
        runtime = resolve(recipe, labeled=nothing, unlabeled=0, launch=find_launch(), machine=machine).runtime
        return runtime.devices, runtime.nodes

    return in_environment


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (1, 1)),
        (TORCHRUN | {"WORLD_SIZE": "2"}, (2, 1)),
        (TORCHRUN | {"WORLD_SIZE": "8"}, (2, 4)),
        (SRUN, (4, 2)),
        (SRUN | TORCHRUN | {"WORLD_SIZE": "4"}, (2, 2)),  # srun starts torchrun, which starts the processes
        (SRUN | {"SLURM_NTASKS": "1"}, (1, 1)),
        (SRUN | {"SLURM_JOB_NAME": "interactive"}, (1, 1)),
    ],
)
def test_the_launcher_says_how_many_processes(launched, environment, expected):
    assert launched(environment) == expected


def test_who_asks_for_processes_and_gets_one_task_starts_them_itself(launched):
    assert launched(SRUN | {"SLURM_NTASKS": "1"}, "runtime.devices=4") == (4, 1)


@pytest.mark.parametrize(
    ("environment", "overrides", "message"),
    [
        (TORCHRUN | {"WORLD_SIZE": "2"}, ["runtime.devices=4"], "runtime.devices is 4, but torchrun started 2 process"),
        (SRUN, ["runtime.nodes=1"], "runtime.nodes is 1, but srun started 4 processes on each of 2 nodes"),
        (SRUN, ["data.labeled_batch=12"], "data.labeled_batch is 12, not a multiple of the 8 parts"),
        (SRUN | {"SLURM_STEP_ID": ""}, [], "put srun before the command"),
        (SRUN | {"SLURM_NTASKS_PER_NODE": ""}, [], "with --ntasks-per-node"),
        (TORCHRUN | {"WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3"}, [], "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"),
    ],
)
def test_what_cannot_work_is_said_before_anything_waits(launched, monkeypatch, environment, overrides, message):
    given = {variable: value for variable, value in environment.items() if value}
    with pytest.raises(InputError, match=message):
        launched(given, *overrides)


def test_the_same_number_twice_is_no_contradiction(launched):
    assert launched(SRUN, "runtime.devices=4", "runtime.nodes=2") == (4, 2)


@pytest.mark.parametrize(
    ("environment", "restarts"),
    [
        ({}, False),
        (TORCHRUN | {"TORCHELASTIC_MAX_RESTARTS": "0"}, False),
        (TORCHRUN | {"TORCHELASTIC_MAX_RESTARTS": "3"}, True),
        (SRUN, False),
        (SRUN | {"SLURM_RESTART_COUNT": "1"}, True),
    ],
)
def test_what_is_restarted_goes_on_where_it_has_begun(monkeypatch, tmp_path, environment, restarts):
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert not goes_on_by_itself(tmp_path)
    (tmp_path / "recipe.yaml").touch()
    assert goes_on_by_itself(tmp_path) == restarts
    if restarts:
        with pytest.raises(InputError, match="give it with --output"):
            goes_on_by_itself(None)


def test_more_devices_than_gpus_is_one_sentence(coco, unlabeled, tiny, call, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    options = [part for option in tiny if "device" not in option for part in ("--set", option)]
    code, _, err = call(
        "train", "custom", "--labeled", coco, "--unlabeled", unlabeled, "--devices", 2, "--set", "runtime.device=cuda",
        *options,
    )  # fmt: skip
    assert code == 2
    assert "runtime.devices is 2, more than the GPUs that torch sees here (1)" in err
