"""The names of the tags and artifacts by which runs, models and versions are found in MLflow.

All tags begin with `trackway.`, but for those that MLflow itself defines, which begin with `mlflow.`.
"""

from __future__ import annotations

from collections.abc import Mapping

OURS = "trackway."  # begins each tag that MLflow does not define
STAGE = "trackway.dvc.stage"  # this tag and the next one identify a run: two experiments may have the same state_dict
STATE_DICT = "trackway.state_dict.sha256"
EXPERIMENT = "trackway.experiment"  # the tag of a registered version
TEST_DATA = "trackway.test_data.md5"
VALIDATION_DATA = "trackway.validation_data.md5"
DATA_TAGS = {"validation": VALIDATION_DATA, "test": TEST_DATA}  # split → the tag with the md5 of its samples
DIAGNOSIS = "trackway.diagnosis"  # the tag of a run with the summary of what its curves show
NO_MODEL = "trackway.model.not_kept"  # the tag of a run whose model cannot be kept, with the reason
REBUILT = "trackway.rebuilt"  # the tag of a run that was rebuilt from DVC's outputs, not written while it was trained
PROCESS = "trackway.process"  # the tag that names the process that writes a run: machine, pid, when it was created
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous-champion"  # aliases of registered versions
MOVE = "trackway.move"  # the tag of a registered model whose champion changes: by what, the next version, the last one
# The tag of a registered version that says why it did or did not become champion; of an experiment, what came last.
DECISION = "trackway.decision"
JUDGED = "trackway.judged"  # the tag of a run whose model was compared with the champion, or became it
REFUSED = "trackway.refused"  # the tag of a champion with the state_dicts that do not take its place by themselves
PREDICTIONS = "predictions.npz"  # the artifact with a model's predictions for each sample of the held-out splits
SEED = "trackway.seed"  # the tag of the run of one of several seeds
PARENT = "mlflow.parentRunId"  # by this tag MLflow's page shows the run below another one
REPORT = "trackway.report"  # the tag with the sha256 of the page that compares the dataset's experiments
LAST_REPORT = "trackway.last_report"  # the tag of an MLflow experiment with the run whose page is the latest
KEY = "trackway.key"  # the tag by which a run that is delivered again is found
HEARTBEAT = "trackway.heartbeat"  # the tag that says when the writer was last alive, in milliseconds since 1970
NOTE = "mlflow.note.content"  # what MLflow's page shows as the description, in Markdown
FIRST_NOTE = "trackway.note"  # what the description said before the evaluation
OUR_NOTE = "trackway.description"  # the description that Trackway wrote; one that a user wrote stays
KIND, TRAININGS = "mlflow.experimentKind", "custom_model_development"  # or the page opens on "GenAI"
VIEW = "mlflow.sharedViewState."  # begins the tag of an experiment with a saved view
NAMES, PREFIXED = "trackway.tags", "prefixed"  # the tag of an experiment whose tags have these names, and its value
DATA_MD5, CODE_MD5 = "trackway.dvc.data.md5", "trackway.dvc.code.md5"  # tags of a run: what its training read
DVC_ERROR = "trackway.dvc.error"  # the tag of a run outside DVC's graph, for which DVC knows no md5
DVC_EXPERIMENT = {
    "DVC_EXP_NAME": "trackway.dvc.exp.name",
    "DVC_EXP_BASELINE_REV": "trackway.dvc.exp.baseline_rev",
}  # environment variable that `dvc exp run` sets → the tag with its value
FLOW_RUN_ID = "trackway.prefect.flow_run"
NODE, RESOURCES = "trackway.node", "trackway.resources"  # tags of a run that was trained on a cluster: where, with what
COMMIT, USER = "mlflow.source.git.commit", "mlflow.user"
FOLDER = "trackway.folder"  # the tag of a run with the project's folder on its machine, whose dvc.lock records it
SOURCE_NAME = "mlflow.source.name"  # what MLflow's page shows as the source of a run
CARD, CARD_FILE = "trackway.card", "model_card.md"  # a version's tag with the sha256 of its card, and an artifact
LATENCY, LATENCY_P95, THROUGHPUT = "latency_ms", "latency_p95_ms", "throughput"  # metrics of a run
LATENCY_DEVICE = "trackway.latency_device"  # the tag of a run that says where these three were measured
DIRTY, DIFF = "trackway.git.dirty", "git.diff"  # a tag and an artifact
SWEEP = "trackway.sweep"  # the tag of a sweep's run and of its trials' runs: the sweep's key
TRIAL = "trackway.trial"  # the tag of a trial's run: how the trial ended


def prefixed(tags: Mapping[str, str]) -> dict[str, str]:
    """Returns tags whose names all begin with `trackway.` or `mlflow.`; the first is put before names without it."""
    return {name if name.startswith((OURS, "mlflow.")) else OURS + name: value for name, value in tags.items()}
