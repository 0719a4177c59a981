"""Everything in compaction and store that can grow, and how far."""

from __future__ import annotations

# compact.py: one stream's dictionary
DEFINITIONS_MAX = 1 << 20  # keys, key sets, runs, each
DEFINITIONS_WEIGHT_MAX = 64 << 20  # characters of keys and runs, eight for each key of a key set
RUNS_OPEN_MAX = 1024  # that one stream owns and has not ended: its epitaph makes and ends them all, if need be
RUN_TEXTS_CHARACTERS_MAX = 16384  # store and experiment of one run
UNKNOWN_KINDS_MAX = 32  # told apart; the rest is counted together
ENDED_RUNS_REMEMBERED = 4096  # run definitions kept after the run's end in that stream

# one run
METRIC_KEYS_MAX = 100_000
PARAMS_MAX = 50_000
TAGS_MAX = 50_000
PARAM_VERSIONS_MAX = 16
PARAM_VALUE_CHARACTERS_MAX = 8000  # the SQL column; the SDK stops at MLflow's 6000
STAGED_TAG_BYTES_MAX = 16 << 20
RUN_NAME_CHARACTERS_MAX = 250
USER_CHARACTERS_MAX = 256
SESSIONS_MAX = 4096
STREAMS_MAX = 16_384
ARTIFACTS_REMEMBERED = 20_000  # whose event is latest, per path; older ones are published again if they come again
ARTIFACT_PARTS_MAX = 64
ARTIFACT_PATH_CHARACTERS_MAX = 2000
PROBLEMS_MAX = 20
PROBLEM_CHARACTERS_MAX = 400
END_REASON_CHARACTERS_MAX = 2000

# one artifact that is made of a staged file; the SDK stops where it can
MEDIA_BYTES_MAX = 256 << 20
PIXELS_MAX = 1 << 28
BINS_MAX = 4096
CHANNELS_MAX = 64  # of sound
TABLE_PART_BYTES_MAX = 32 << 20  # of the rows of one call
TABLE_BYTES_MAX = 512 << 20
TABLE_PARTS_MAX = 100_000
TABLE_COLUMNS_MAX = 10_000

# one dataset: MLflow's limits
DATASET_NAME_CHARACTERS_MAX = 500
DATASET_DIGEST_CHARACTERS_MAX = 36
DATASET_TEXT_CHARACTERS_MAX = 256 << 10
INPUT_TAGS_MAX = 1000
INPUTS_MAX = 10_000

# one key
KEY_CHARACTERS_MAX = 250
COMPONENT_BYTES_MAX = 255

# one experiment
EXPERIMENT_NAME_CHARACTERS_MAX = 500
EXPERIMENT_TAGS_MAX = 10_000

# one store
OPEN_FILES_MAX = 4096  # and no more than half of what the process may open (RLIMIT_NOFILE)
RUNS_IN_MEMORY_MAX = 512  # and those with artifacts on their way
RUNS_EXPECTING_MAX = 4096  # with artifacts on their way; then the streams that bring more give those a second to come
FEW_POINTS = 64  # of one key in one batch: what comes while a run is live, and is appended the short way
BLOCK_BYTES = 64 << 10  # of a metric file, one entry of its index
DECODED_BLOCKS_MAX = 64
RECOVERY_POINTS_MAX = 100_000  # of one file at once; the rest waits in the file
CHECKPOINT_BYTES_MAX = 64 << 20
COPY_BYTES = 1 << 20
STEP_BYTES = 64 << 20  # of one artifact, then others have a turn
ARTIFACTS_WAITING_MAX = 20_000  # of one run; then its streams wait
ARTIFACTS_AT_ONCE = 256  # a sync of the file system each time, and a hundredth of a second for the run's points
SHARED_FROM_BYTES = 64 << 10  # smaller content is not looked for: that takes as much as it would save
HOLLOW_FROM_BYTES = 64 << 20  # smaller ones are read whatever they occupy: some file systems do not say
HOLLOW_RATIO = 16  # of size to bytes occupied: beyond it content is not looked for, as that saves nothing
FSYNC_FILES_MAX = 16  # more than these at once are one syncfs
SECTOR_BYTES = 512  # a device writes as much whole or not at all
CHECKPOINT_INTERVAL_S = 1.0
DURABLE_INTERVAL_S = 60.0
