"""Lines that nobody should type, by command: the line, `|`, and a part of the one sentence that answers it.

The folder that they are typed in is that of `tests.end_to_end.stupid_inputs.things`.
"""

from __future__ import annotations

HF = "--env.kind hf --env.policy policy --env.actor actor --env.prompts prompts.jsonl"
"""A study of real models, `@hf` below."""
BASE = "--executor serial --env.kind temperature --env.temperature 2 --env.base.kind"
"""A study of a base law, `@base` below."""

SWEEP = """
--config missing.yaml                                     | config missing.yaml cannot be read
--config folder                                           | Is a directory
--config broken.yaml                                      | cannot be parsed
--config empty.yaml                                       | must hold a mapping
--config list.yaml                                        | must hold a mapping
--config binary.yaml                                      | cannot be parsed
--config study.json                                       | must end in .yaml
--config train.yaml                                       | run `python -m jackpot_sim.training --config train.yaml`
--config misspelt.yaml                                    | sedes: there is no such field
--config name.yaml                                        | name
--config                                                  | --config
--config study.yaml --config study.yaml                   | --config
study.yaml                                                | --config study.yaml
train.yaml                                                | --config train.yaml
run                                                       | see --help
--confg study.yaml                                        | --confg
-config study.yaml                                        | -config
--config study.yaml --out study.yaml                      | study.yaml is not a folder
--config study.yaml --out study.yaml/below                | Not a directory
--config study.yaml --out /proc/nope                      | cannot write /proc/nope
--config study.yaml --out folder                          | holds files but no run
--config study.yaml --out trained                         | trained holds a study of training
--config study.yaml --out diagnosed                       | diagnosed holds a diagnosis of `python -m
--config study.yaml --out damaged                         | choose another --out
--config study.yaml --out run --seeds 3                   | holds another study
--config study.yaml --out                                 | --out
--config study.yaml --out ''                              | holds files but no run
--config study.yaml --seeds two                           | --seeds
--config study.yaml --seeds 0                             | between 1 and
--config study.yaml --seeds -1                            | between 1 and
--config study.yaml --seeds 1.5                           | --seeds
--config study.yaml --seeds 1e-3                          | --seeds
--config study.yaml --seeds 1e9                           | between 1 and
--config study.yaml --seeds 1 2                           | 2
--config study.yaml --n-samples 0                         | n_samples
--config study.yaml --n-samples -5                        | n_samples
--config study.yaml --n-samples nan                       | --n-samples
--config study.yaml --n-samples 1e99                      | --n-samples
--config study.yaml --replicates 2                        | replicates
--config study.yaml --workers 0                           | --workers must be at least 1
--config study.yaml --workers many                        | --workers
--config study.yaml --executor serial --workers 2         | cannot go with
--config study.yaml --ray-address head:6379               | goes with --executor ray
--config study.yaml --worker-gpus 1                       | goes with --executor ray
--config study.yaml --worker-threads 0                    | --worker-threads must be at least 1
--config study.yaml --worker-threads 99999                | --worker-threads 99999 leaves no room for a worker
--config study.yaml --executor ray --worker-threads 99999 | --worker-threads 99999 leaves no room for a worker
--config study.yaml --executor ray --ray-address 127.0.0.1:9 | nobody answers at
--config study.yaml --executor dask                       | --executor
--config study.yaml --estimators                          | estimators
--config study.yaml --estimators tiss                     | did you mean 'tis'
--config study.yaml --estimators TIS                      | unknown estimator
--config study.yaml --estimators tis,jackpot              | unknown estimator
--config study.yaml --estimators tis tis                  | tis twice
--config study.yaml --estimators 2                        | unknown estimator
--config study.yaml --estimators sequence-is              | looks at whole sequences
--config study.yaml --denominators all                    | denominators
--config study.yaml --methods guess                       | methods
--config study.yaml --topk 0                              | normalizers.k
--config study.yaml --topk                                | normalizers
--config study.yaml --columns                             | --columns stands alone
--config study.yaml --quiet yes                           | yes
--config study.yaml --no-quiet                            | --no-quiet
--config study.yaml --env.sigma                           | needs a value
--config study.yaml --env.sigma nan                       | sigma must be finite
--config study.yaml --env.sigma -1                        | sigma
--config study.yaml --env.sigma big                       | sigma
--config study.yaml --env.sigma 1 --env.sigma 2           | given twice
--config study.yaml --env.simga 1                         | no such field
--config study.yaml --env.sigma 1 --env.target-kl 1       | sigma
--config study.yaml --env.base.vocab 0                    | vocab
--config study.yaml --env.base.vocab 2.5                  | vocab
--config study.yaml --env.base.vocab 1e13 --executor serial | memory
--config study.yaml --env.base.states -1                  | states
--config study.yaml --env.base.size 3                     | no such field
--config study.yaml --env..sigma 1                        | dotted
--config study.yaml --env. 1                              | dotted
--config study.yaml --env logit-noise                     | dotted
--config study.yaml --environment logit-noise             | dotted
--env.kind nope                                           | 'nope'
--env.kind logit_noise --env.sigma 1                      | did you mean 'logit-noise'
--env.kind                                                | needs a value
--env.kind logit-noise                                    | sigma
--env.kind logit-noise --env.sigma 1 --env.base.vocab 9   | --env.base.kind
--env.kind top-k --env.k 0                                | k must
--env.kind top-k --env.k 50 --env.base.kind zipf --env.base.vocab 9 --seeds 1 --executor serial | cell top-k-zipf
--env.kind top-p --env.p 2                                | p must
--env.kind top-p --env.p 0.9 --env.log-probs mask          | 'processed', 'raw' or 'support'
--env.kind small-lm --env.log-probs full                  | env.log_probs: Input should be
--env.kind temperature --env.temperature 0                | temperature
--env.kind temperature --env.target-kl 99 --seeds 1 --executor serial | unattainable
@base logits-file --env.base.path no.npy                  | no.npy
@base logits-file --env.base.path prompts.jsonl           | .npy
@base logits-file --env.base.path cut.npy                 | cut.npy
@base logits-file --env.base.path nan.npy                 | nan.npy
@base ngram --env.base.text folder                        | no *.py or *.txt
--env.kind small-lm --env.length 0                        | length
--env.kind small-lm --env.vocab 1000                      | vocab
--env.kind small-lm --env.source.kind telepathy           | 'telepathy'
--env.kind small-lm --env.source.kind weight-noise --env.source.sigma x | env.source
--env.kind small-lm --topk 3                              | normalizers
--env.kind hf                                             | --env.policy
--env.kind hf --env.policy policy --env.actor actor       | --env.prompts
--env.kind hf --env.policy policy --env.prompts prompts.jsonl | --env.actor
--env.kind hf --env.policy no/such --env.actor actor --env.prompts prompts.jsonl | no such folder
--env.kind hf --env.policy folder --env.actor actor --env.prompts prompts.jsonl | folder
--env.kind hf --env.policy policy --env.actor no/such --env.prompts prompts.jsonl --env.length 2 | no such folder
--env.kind hf --env.policy policy --env.actor actor --env.prompts no.jsonl | no.jsonl
--env.kind hf --env.policy policy --env.actor actor --env.prompts empty.jsonl | there is no prompt
--env.kind hf --env.policy policy --env.actor actor --env.prompts study.yaml | .jsonl or .txt
--env.kind hf --env.policy policy --env.actor actor --env.prompts bad.jsonl | line 1
--env.kind hf --env.policy policy --env.actor actor --env.prompts chat.jsonl | the prompts are chat messages
@hf --env.chat true                                       | chat is true
@hf --env.device cuda:9                                   | cuda
@hf --env.length 0                                        | length
@hf --env.length 999                                      | at most 32 tokens
@hf --env.length 2 --env.block head                       | no parameter matches
@hf --env.reward no                                       | env.reward
@hf --env.gradients no                                    | gradients
--env.kind hf --env.policy policy --env.actor quantised-weights --env.prompts prompts.jsonl | did you mean
--env.kind hf --env.policy policy --env.actor weight-noise --env.prompts prompts.jsonl | sigma
"""

ANALYSIS = """
diagnosed                          | diagnosed/metrics.parquet is missing or damaged
diagnosed run                      | one run at a time
nowhere                            | holds no run
study.yaml                         | holds no run
folder                             | holds no run
trained                            | trained/manifest.json does not say what was to be trained
damaged                            | is not the manifest of a run
begun                              | no finished cell
real --base tis                    | --base is for studies of training
runs nowhere                       | there is no folder nowhere
runs folder study.yaml             | study.yaml
run run                            | one run at a time
--run run                          | --run
run --n-samples 0                  | n_samples
run --n-samples many               | --n-samples
run --n-samples                    | n_samples
run --replicates 1                 | replicates must be at least 2
run --replicates x                 | --replicates
run --level 95                     | level must lie
run --level nan                    | level must lie
run --seed -1                      | seed
run --seed x                       | --seed
run --resample tokens              | --resample
run --out study.yaml               | cannot write
run --out study.yaml/below         | cannot write
run --replicates 5 --out /proc/no  | cannot write
run --out                          | --out
run --colour                       | --colour
run --wide=3                       | --wide
''                                 | holds no run
"""

TRAINING = """
--config missing.yaml                                     | cannot be read
--config folder                                           | Is a directory
--config broken.yaml                                      | cannot be parsed
--config empty.yaml                                       | must hold a mapping
--config study.json                                       | must end in .yaml
--config study.yaml                                       | run `python -m jackpot_sim.sweep --config study.yaml`
--config train.yaml --quick                               | no quick version
train.yaml                                                | --config train.yaml
--config train.yaml --out folder                          | holds files but no study
--config train.yaml --out train.yaml                      | is not a folder
--config train.yaml --out run                             | run holds a run of `python -m jackpot_sim.sweep`
--config train.yaml --out damaged                         | choose another --out
--config train.yaml --out trained                         | holds another study
--config train.yaml --out /proc/nope                      | cannot write
--steps                                                   | --steps needs a value
--steps 0                                                 | steps
--steps x                                                 | steps
--steps 1.5                                               | steps
--steps 3 --steps 4                                       | given twice
--step 3                                                  | --step
--seeds 0                                                 | at least 1
--seeds x                                                 | --seeds
--workers 0                                               | --workers must be at least 1
--executor serial --workers 3                             | cannot go with
--executor threads                                        | --executor
--device toaster                                          | toaster
--precision fp8                                           | precision
--mixed-precision param_dtype                             | mixed_precision param_dtype rounds to 16 bits
--actor nobody                                            | 'nobody'
--actor on-policy --actor.kl 1                            | on-policy has no fields
--actor.kind stale --actor.lag 0                          | lag
--actor.kind stale --actor.kl 1                           | stale has lag
--actor.kind frozen --actor.kl null                       | kl is null
--actor.kind frozen --actor.model no/such --actor.kl 1    | no/such
--correction nothing                                      | unknown estimator
--correction tis --correction.clap 2                      | clip
--correction tis --correction.clip -1                     | clip must be positive
--correction.clip 2                                       | kind
--correction tis --budget.rejected 0.1                    | no lam
--correction jackpot --rollout.topk 0                     | rollout.topk
--update.minibatches 99                                   | update.minibatches
--update.cliq 1                                           | no such field
--update 3                                                | update
--update.clip null --update.clip-high 1                   | clip_high
--rollout.prompts 0                                       | rollout.prompts
--rollout.samples 1                                       | rollout.samples
--evaluation.problems x                                   | evaluation.problems
--task juggling                                           | 'juggling'
--task prompts                                            | --task.prompts
--task prompts --task.prompts no.jsonl --policy policy    | no.jsonl
--task prompts --task.prompts empty.jsonl --policy policy | there is no prompt
--task prompts --task.prompts chat.jsonl --policy policy  | chat.jsonl
--task prompts --task.prompts prompts.jsonl               | cannot be taught
--task benchmark --task.name gsm9k --policy policy        | task.name
--policy no/such/folder --quiet --executor serial         | no/such/folder
--policy.accuracy 2                                       | policy.accuracy
--policy.model.hidden 7 --steps 1                         | hidden
--quiet=maybe                                             | --quiet
--config train.yaml --dry-run extra                       | extra
"""

BENCH = """
nothing                            | nothing
figure2 nothing                    | nothing
--out                              | --out
memory --out folder                | folder is a folder
overhead --rounds 0 --out new.json | rounds
memory --out /proc/nope            | cannot write
memory --out no/such/file.json     | cannot write
memory --vocab 5                   | --vocab is an option of overhead alone
trl --rounds 3                     | --rounds is an option of overhead alone
trl --rounds                       | --rounds
overhead --vocab x                 | --vocab
overhead --vocab 0                 | vocab
overhead --shape gpt5              | --shape
overhead --device toaster          | --device
overhead --device cuda             | CUDA
overhead --precision int2          | --precision
overhead --batch 0                 | batch
overhead --length 0                | length
overhead --rounds 0                | rounds
overhead --topk 0                  | topk
--bogus                            | --bogus
"""

EXAMPLE = """
study.yaml                         | study.yaml
models --steps x                   | --steps
models --steps 0                   | steps
--bogus                            | --bogus
one two three                      | three
new --prompts 1e6                  | ask for fewer prompts
"""

DIAGNOSE = """
--quiet                            | name the files or the folder of a dump
nowhere.jsonl                      | nowhere.jsonl does not exist
'*.parq'                           | no file matches *.parq
folder                             | folder holds no dump, only 1 other file such as precious
run                                | run
empty.jsonl                        | empty.jsonl is empty
cut.jsonl                          | cut.jsonl ends in the middle of line 2
bad.jsonl                          | bad.jsonl
study.yaml                         | study.yaml is no dump
binary.yaml                        | binary.yaml is no dump
good.npy                           | good.npy is no dump
prompts.jsonl                      | prompts.jsonl, line 1 holds the keys prompt, answer, by which no format is known
nameless.jsonl                     | nameless.jsonl, line 1 has no column sequence
lacks.jsonl                        | lacks.jsonl, line 1 has no log-probs of the policy: give --policy
lengths.jsonl                      | lengths.jsonl, line 2 has lists of different lengths
lengths.jsonl lacks.jsonl          | lengths
dump.jsonl lacks.jsonl             | lacks.jsonl
dump.jsonl prompts.jsonl           | prompts.jsonl
words.jsonl                        | words.jsonl, line 2: actor_log_prob holds 'x', where number
masked.jsonl                       | no token is left to diagnose: 3 masked (masked.jsonl, line 1, position 0)
infinite.jsonl                     | no token is left to diagnose: 3 infinite (infinite.jsonl, line 1, position 0
positive.jsonl                     | no token is left to diagnose: 3 positive (positive.jsonl, line 1, position 0
foreign.pkl                        | nothing in a dump is ever run
lengths.jsonl lacks.jsonl --skip-bad | lacks.jsonl
dump.jsonl --format nemo           | no format is called nemo
dump.jsonl --format                | --format
dump.jsonl --format prime-rl       | dump.jsonl, line 1
dump.jsonl --formats               | --formats stands alone
dump.jsonl --schema                | --schema stands alone
dump.jsonl --example               | and one of them
dump.jsonl --correction            | --correction: name a correction
dump.jsonl --correction tiss       | did you mean 'tis'
dump.jsonl --correction 'tis(clap=3)' | 'tis' has no parameter 'clap'
dump.jsonl --correction 'tis(clip=' | cannot be read at its end
dump.jsonl --correction tis 'none |'  | cannot be read
dump.jsonl --keep 0.9 --ess 2      | --ess must lie above 0 and be at most 1
dump.jsonl --keep 2                | --keep must lie above 0 and be at most 1
dump.jsonl --keep 0                | --keep
dump.jsonl --ess nan               | --ess must lie above 0
dump.jsonl --bias -0.1             | --bias
dump.jsonl --bias little           | --bias
dump.jsonl --out folder            | folder holds files but no diagnosis
dump.jsonl --out run               | run holds a run of `python -m jackpot_sim.sweep`
dump.jsonl --out study.yaml        | study.yaml is not a folder
dump.jsonl --out /proc/nope        | cannot write /proc/nope
dump.jsonl --json folder           | --json folder is a folder
dump.jsonl --json nowhere/x.json   | there is no folder nowhere
dump.jsonl --json /proc/x.json     | cannot write /proc/x.json
dump.jsonl --json                  | --json
dump.jsonl --policy folder         | --policy folder: no checkpoint
dump.jsonl --policy ./nowhere      | --policy ./nowhere: no such folder
lacks.jsonl --policy policy        | lacks.jsonl, line 1
dump.jsonl --tokenizer folder      | --tokenizer folder holds no tokenizer
--example --executor ray --ray-address 127.0.0.1:9 | nobody answers at
dump.jsonl --workers 0             | --workers must be at least 1
dump.jsonl --plugin                | --plugin
dump.jsonl --plugin study.yaml     | study.yaml
dump.jsonl --bogus                 | --bogus
"""

JACKPOT_SIM = """
swep                               | did you mean sweep?
trian                              | did you mean train?
--bogus                            | there is no command '--bogus'
''                                 | there is no command ''
sweep --bogus                      | sweep: Unknown option
analysis nowhere                   | analysis: nowhere holds no run
training --steps x                 | training: steps
paper_figures figre2               | paper_figures: Unused Tokens
--install-completion tcsh          | completion: Invalid value
figures figure2 --records nowhere  | figure2: nowhere holds no run
figures figure2 --records x --rerun | figure2: give --records or --rerun, not both
figures --rerun figure2            | paper_figures: Unused Tokens
λ                                  | there is no command
"""

COMPLETION = """
tcsh                               | tcsh
bash zsh                           | zsh
--install=fish                     | --install
--bogus                            | --bogus
"""
DOCTOR = """
--bogus                            | --bogus
json                               | json
--json yes                         | yes
"""
RECORD = """
--out new                          | give the files of a dump, or --server
dump.jsonl                         | --out
dump.jsonl --out folder            | folder is there already: give a folder that is new or empty
lacks.jsonl --out new              | no log-probs of the policy
words.jsonl --out new              | words.jsonl
nowhere.jsonl --out new/er         | does not exist
dump.jsonl --out study.yaml/new    | Not a directory
--server x --out new               | --server must begin with http:// or https://, got x
--server ftp://x --out new         | --server must begin with http
--server http://x/v1 --out new     | --server goes with --policy
--server http://127.0.0.1:9 --policy policy --prompts no.txt --out new | no.txt: cannot read prompts: No such file
--server http://127.0.0.1:9 --policy policy --prompts prompts.jsonl --out new | cannot be reached
"""
REPORT = """
nowhere                            | nowhere holds no run
folder                             | folder holds no run
study.yaml                         | study.yaml holds no run
damaged                            | damaged/manifest.json is damaged
trained                            | trained holds no finished study
begun                              | begun holds no finished cell yet
diagnosed                          | diagnosed/report.json is missing
run --bogus                        | --bogus
                                   | there is no run below runs/
"""
FIGURES = {
    "paper_figures": """
figre2                             | figre2
--records run                      | --records
--out                              | --out
""",
    "figure1": """
--records nowhere                  | holds no study
--records run                      | run holds a run of `python -m jackpot_sim.sweep`
--records folder                   | holds no study
--records damaged                  | is not the manifest of a study
--records trained                  | no finished study
--records run --quick              | give one of --records, --rerun and --quick
--out study.yaml                   | cannot write
--bogus                            | --bogus
stray                              | stray
""",
    "figure2": """
--records nowhere                  | holds no run
--records trained                  | trained holds a study of training
--records run                      | run lacks
--records damaged                  | is not the manifest
--records                          | --records
""",
    "overhead": """
--records nowhere                  | nowhere
--records study.yaml               | study.yaml
--records folder                   | folder
""",
    "table1": """
--records nowhere                  | holds no study
--quick now                        | now
""",
    "topk_accuracy": """
--records run                      | run
--records nowhere                  | holds no run
""",
}

TABLES = {
    "sweep": SWEEP,
    "analysis": ANALYSIS,
    "training": TRAINING,
    "bench": BENCH,
    "diagnose": DIAGNOSE,
    "example": EXAMPLE,
    "jackpot_sim": JACKPOT_SIM,
    "completion": COMPLETION,
    "record": RECORD,
    "report": REPORT,
    "doctor": DOCTOR,
    **FIGURES,
}
"""The lines of each command."""
