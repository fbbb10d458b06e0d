"""Sources of policy pairs that do not match: independent states, enumerable sequences, rollouts of real models.

The folders build on each other, and the files beside them serve all: `language_models` and `states`, then
`sources` of a language-model actor, then `sequences`, then `rollouts`. Of the other packages only core is imported.
"""
