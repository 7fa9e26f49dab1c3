# ruff: noqa: E501
"""A table of bad recipes, each with the exact message that its author gets.

A row is (start, text, message). The start is right by itself, so the text begins on line 1, 3 or 4.
Names that libraries define stand in the messages as {TASKS}, {OPTIMIZERS} and {SCHEDULES}.
"""

from __future__ import annotations

from typing import get_args

import pytest

from hf_ft.errors import RecipeError
from hf_ft.recipe.library_arguments import schedules, training_arguments
from hf_ft.recipe.read import load_recipe
from hf_ft.registry import list_tasks

NAMES = {
    "{TASKS}": ", ".join(list_tasks()),
    "{OPTIMIZERS}": ", ".join(get_args(training_arguments()["optim"].type)),
    "{SCHEDULES}": ", ".join(schedules()),
}

# What stands before the text of a row.
NOTHING = ""
ALL = "task: toy:ToyTask\ndata: {source: a.csv}\nmodel: {name: m}\n"
NO_TASK = "data: {source: a.csv}\nmodel: {name: m}\n"
NO_DATA = "task: toy:ToyTask\nmodel: {name: m}\n"
NO_MODEL = "task: toy:ToyTask\ndata: {source: a.csv}\n"

BAD: list[tuple[str, str, str]] = [
    # The text itself
    (
        NOTHING,
        "",
        "r.yaml: the recipe is empty; expected the sections task, data, model, freeze, augment, loss, train, cache, evaluate, publish",
    ),
    (
        NOTHING,
        "# only a comment\n",
        "r.yaml: the recipe is empty; expected the sections task, data, model, freeze, augment, loss, train, cache, evaluate, publish",
    ),
    (
        NOTHING,
        "- task\n- data\n",
        "r.yaml: the recipe is not a mapping of keys and values; expected the sections task, data, model, freeze, augment, loss, train, cache, evaluate, publish",
    ),
    (
        NOTHING,
        "hello\n",
        "r.yaml: the recipe is not a mapping of keys and values; expected the sections task, data, model, freeze, augment, loss, train, cache, evaluate, publish",
    ),
    (
        NOTHING,
        "42\n",
        "r.yaml: the recipe is not a mapping of keys and values; expected the sections task, data, model, freeze, augment, loss, train, cache, evaluate, publish",
    ),
    (ALL, "train:\n\tcompile: true\n", "r.yaml:5: found a tab; indent with spaces"),
    (
        ALL,
        "train: {compile: true\n",
        "r.yaml:4: found a `{` that is never closed, or an entry without a comma",
    ),
    (
        ALL,
        "freeze: {strategy: patterns, patterns: [a, b}\n",
        "r.yaml:4: found a `[` that is never closed, or an entry without a comma",
    ),
    (ALL, "name: 'abc\n", "r.yaml:4: found a quote that is never closed"),
    (
        ALL,
        "train: num_train_epochs: 3\n",
        "r.yaml:4: found a second `:` or a wrong indentation; put text that holds `: ` in quotes",
    ),
    (
        ALL,
        "train:\n   optim: sgd\n  seed: 3\n",
        "r.yaml:6: found what does not continue the lines above; look at its indentation and at quotes before it",
    ),
    (
        ALL,
        " seed: 3\n",
        "r.yaml:4: found what does not continue the lines above; look at its indentation and at quotes before it",
    ),
    (
        ALL,
        "name: 'a' b\n",
        "r.yaml:4: found what does not continue the lines above; look at its indentation and at quotes before it",
    ),
    (ALL, "name: @home\n", "r.yaml:4: found '@' at the start of a value; put the text in quotes"),
    (
        ALL,
        "name: *stored\n",
        "r.yaml:4: found *stored, which no anchor defines; put text that begins with * in quotes",
    ),
    (ALL, "name: `x`\n", "r.yaml:4: found '`' at the start of a value; put the text in quotes"),
    (ALL, "train\n", "r.yaml:4: found a key without `:`"),
    (ALL, "---\nname: b\n", "r.yaml:4: found a second document after `---`; a recipe is one document"),
    (
        ALL,
        "name: !!python/object:os.system x\n",
        "r.yaml:4: found the tag !!python/object:os.system; a recipe has no tags, write the plain value",
    ),
    (
        ALL,
        "name: !secret x\n",
        "r.yaml:4: found the tag !secret; a recipe has no tags, write the plain value",
    ),
    (ALL, "? [a, b]\n: c\n", "r.yaml:4: found a list or mapping as a key; a key is text"),
    (ALL, "a: &a {b: *a}\n", "r.yaml:4: an alias holds itself; write the values out"),
    (
        ALL,
        "x: [[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]\n",
        "r.yaml:4: nested more than 20 deep; a recipe needs four levels",
    ),
    (ALL, "seed: 1\nseed: 2\n", "r.yaml:4: seed: given twice, on lines 4 and 5; keep one"),
    (
        ALL,
        "train: {optim: sgd, optim: sgd}\n",
        "r.yaml:4: train.optim: given twice, on lines 4 and 4; keep one",
    ),
    # Values that readers of YAML disagree about
    (
        ALL,
        "name: 2016-01-04\n",
        "r.yaml:4: name: found 2016-01-04, which some readers take for a date; write '2016-01-04'",
    ),
    (
        ALL,
        "seed: 007\n",
        "r.yaml:4: seed: found 007, a number with a leading zero; write '007' for text, 7 for the number",
    ),
    (
        ALL,
        "train: {learning_rate: 01.5}\n",
        "r.yaml:4: train.learning_rate: found 01.5, a number with a leading zero; write '01.5' for text, 1.5 for the number",
    ),
    (
        ALL,
        "train: {compile: yes}\n",
        "r.yaml:4: train.compile: found the text 'yes'; expected true or false or auto; write true without quotes",
    ),
    (
        ALL,
        "train: {compile: off}\n",
        "r.yaml:4: train.compile: found the text 'off'; expected true or false or auto; write false without quotes",
    ),
    (
        ALL,
        "train: {compile: 'true'}\n",
        "r.yaml:4: train.compile: found the text 'true'; expected true or false or auto; write true without quotes",
    ),
    (
        ALL,
        "train: {compile: 1}\n",
        "r.yaml:4: train.compile: found the number 1; expected true or false or auto",
    ),
    (ALL, "seed: '17'\n", "r.yaml:4: seed: found the text '17'; expected a whole number; remove the quotes"),
    (
        ALL,
        "train: {learning_rate: '5e-5'}\n",
        "r.yaml:4: train.learning_rate: found the text '5e-5'; expected auto or a number; remove the quotes",
    ),
    (ALL, "seed: 1_000\n", "r.yaml:4: seed: found the text '1_000'; expected a whole number"),
    (
        ALL,
        "train: {learning_rate: .nan}\n",
        "r.yaml:4: train.learning_rate: found the number nan; expected auto or a finite number",
    ),
    (
        ALL,
        "train: {num_train_epochs: .inf}\n",
        "r.yaml:4: train.num_train_epochs: found the number inf; expected auto or a finite number",
    ),
    (
        ALL,
        "name: 5\n",
        "r.yaml:4: name: found the number 5; expected text; write '5' in quotes if text is meant",
    ),
    (
        ALL,
        "name: true\n",
        "r.yaml:4: name: found true; expected text; write 'true' in quotes if text is meant",
    ),
    (
        ALL,
        "name: null\noutput_dir: 3\n",
        "r.yaml:5: output_dir: found the number 3; expected text; write '3' in quotes if text is meant",
    ),
    (
        NO_DATA,
        "data: {source: a.csv, revision: 2016-01-04}\n",
        "r.yaml:3: data.revision: found 2016-01-04, which some readers take for a date; write '2016-01-04'",
    ),
    (
        NO_DATA,
        "data: {source: a.csv, id: 010}\n",
        "r.yaml:3: data.id: found 010, a number with a leading zero; write '010' for text, 10 for the number",
    ),
    # The task
    (
        NOTHING,
        "data: {source: a.csv}\nmodel: {name: m}\n",
        "r.yaml: task: missing; expected the name of a task: {TASKS}",
    ),
    (NO_TASK, "task:\n", "r.yaml:3: task: missing; expected the name of a task: {TASKS}"),
    (NO_TASK, "task: {size: 3}\n", "r.yaml:3: task: missing; expected the name of a task: {TASKS}"),
    (
        NO_TASK,
        "task: 5\n",
        "r.yaml:3: task: found the number 5; expected the name of a task, or {name: ..., <options of the task>}",
    ),
    (
        NO_TASK,
        "task: [a]\n",
        "r.yaml:3: task: found a list; expected the name of a task, or {name: ..., <options of the task>}",
    ),
    (
        NO_TASK,
        "task: image-clasification\n",
        "r.yaml:3: task: there is no task 'image-clasification'; did you mean 'image-classification'? Known tasks: {TASKS}",
    ),
    (
        NO_TASK,
        "task: image_classification\n",
        "r.yaml:3: task: there is no task 'image_classification'; did you mean 'image-classification'? Known tasks: {TASKS}",
    ),
    (
        NO_TASK,
        "task: nowhere.at_all:Task\n",
        "r.yaml:3: task: cannot import 'nowhere.at_all:Task' (No module named 'nowhere'); expected package.module:Class",
    ),
    (
        NO_TASK,
        "task: toy:NoSuchTask\n",
        "r.yaml:3: task: cannot import 'toy:NoSuchTask' (module 'toy' has no attribute 'NoSuchTask'); expected package.module:Class",
    ),
    (
        NO_TASK,
        "task: toy:ToyOptions\n",
        "r.yaml:3: task: 'toy:ToyOptions' is <class 'toy.ToyOptions'>, not a subclass of hf_ft.Task",
    ),
    (
        NO_TASK,
        "task: {name: 'toy:ToyTask', size: big}\n",
        "r.yaml:3: task.size: found the text 'big'; expected a whole number",
    ),
    (
        NO_TASK,
        "task: {name: 'toy:ToyTask', sise: 8}\n",
        "r.yaml:3: task.sise: unknown key; did you mean size?",
    ),
    (
        NO_TASK,
        "task: {name: 'toy:PlainTask', size: 8}\n",
        "r.yaml:3: task.size: unknown key; the keys here are name",
    ),
    # Missing sections and keys
    (
        NOTHING,
        "task: toy:ToyTask\n",
        (
            "r.yaml: data: missing section (where the rows come from and which column plays which role)\n"
            "r.yaml: model: missing section (the pretrained model to start from)"
        ),
    ),
    (
        NOTHING,
        "task: toy:ToyTask\nmodel: {name: m}\n",
        "r.yaml: data: missing section (where the rows come from and which column plays which role)",
    ),
    (
        NOTHING,
        "task: toy:ToyTask\ndata: {source: a.csv}\n",
        "r.yaml: model: missing section (the pretrained model to start from)",
    ),
    (NO_DATA, "data:\n", "r.yaml:3: data: found nothing (null); expected a mapping of keys and values"),
    (
        NO_DATA,
        "data: {}\n",
        "r.yaml:3: data.source: missing; expected: Hub id, folder, file, glob, https address, `sample:NAME`, `py:module:function`; or {split: source}",
    ),
    (
        NO_DATA,
        "data: a.csv\n",
        "r.yaml:3: data: found the text 'a.csv'; expected a mapping of keys and values; write data: {source: a.csv}",
    ),
    (
        NO_MODEL,
        "model: bert-base\n",
        "r.yaml:3: model: found the text 'bert-base'; expected a mapping of keys and values; write model: {name: bert-base}",
    ),
    (
        NO_MODEL,
        "model: {revision: main}\n",
        "r.yaml:3: model.name: missing; expected: Hub id, local folder, or `sample:NAME`",
    ),
    (ALL, "train: fast\n", "r.yaml:4: train: found the text 'fast'; expected a mapping of keys and values"),
    (ALL, "train: [1, 2]\n", "r.yaml:4: train: found a list; expected a mapping of keys and values"),
    (
        ALL,
        "evaluate: accuracy\n",
        "r.yaml:4: evaluate: found the text 'accuracy'; expected a mapping of keys and values; write evaluate: {metric: accuracy}",
    ),
    # The top level
    (ALL, "seed: -1\n", "r.yaml:4: seed: found the number -1; expected at least 0"),
    (
        ALL,
        "seed: 4294967296\n",
        "r.yaml:4: seed: found the number 4294967296; expected a number below 4294967296",
    ),
    (ALL, "seed: 1.5\n", "r.yaml:4: seed: found the number 1.5; expected a whole number"),
    (ALL, "seeds: [1, 2]\n", "r.yaml:4: seeds: unknown key; did you mean seed?"),
    (ALL, "random_state: 3\n", "r.yaml:4: random_state: unknown key; write seed"),
    (
        ALL,
        "name: a/b\n",
        "r.yaml:4: name: found 'a/b', which cannot name a run; use letters, digits, `_`, `-` and `.`",
    ),
    (
        ALL,
        "name: ..\n",
        "r.yaml:4: name: found '..', which cannot name a run; use letters, digits, `_`, `-` and `.`",
    ),
    (
        ALL,
        "learning_rate: 0.1\n",
        "r.yaml:4: learning_rate: unknown key here; it belongs to train: train.learning_rate",
    ),
    (ALL, "epochs: 3\n", "r.yaml:4: epochs: unknown key; write train.num_train_epochs"),
    (ALL, "batch_size: 8\n", "r.yaml:4: batch_size: unknown key; write train.global_batch_size"),
    (ALL, "lr: 0.1\n", "r.yaml:4: lr: unknown key; write train.learning_rate"),
    (
        ALL,
        "metric: accuracy\n",
        "r.yaml:4: metric: unknown key here; it belongs to evaluate: evaluate.metric",
    ),
    (ALL, "source: a.csv\n", "r.yaml:4: source: unknown key here; it belongs to data: data.source"),
    (ALL, "trian: {}\n", "r.yaml:4: trian: unknown key; did you mean train?"),
    (ALL, "datas: {}\n", "r.yaml:4: datas: unknown key; did you mean data?"),
    (ALL, "optimizer: sgd\n", "r.yaml:4: optimizer: unknown key; write train.optim"),
    (ALL, "dataset: cifar10\n", "r.yaml:4: dataset: unknown key; write data.source"),
    (
        ALL,
        "early_stoping_patience: 3\n",
        "r.yaml:4: early_stoping_patience: unknown key; did you mean train.early_stopping_patience?",
    ),
    (
        ALL,
        "banana: 1\n",
        "r.yaml:4: banana: unknown key; the keys here are task, name, output_dir, seed, data, model, freeze, augment, loss, train, cache, evaluate, publish",
    ),
    (ALL, "<<: {seed: 1}\n", "r.yaml:4: <<: unknown key; write the keys out; YAML 1.2 has no merge key"),
    (
        ALL,
        "push_to_hub: true\n",
        "r.yaml:4: push_to_hub: not a key of a recipe: write publish.repo: namespace/name",
    ),
    # Cache
    (
        ALL,
        "cache: {decoded: 1}\n",
        "r.yaml:4: cache.decoded: found the number 1; expected true or false",
    ),
    (
        ALL,
        "cache: {decoded: auto}\n",
        "r.yaml:4: cache.decoded: found the text 'auto'; expected true or false",
    ),
    (
        ALL,
        "cache: {decode: true}\n",
        "r.yaml:4: cache.decode: unknown key; did you mean decoded?",
    ),
    # Data and model
    (
        NO_DATA,
        "data: {source: 5}\n",
        "r.yaml:3: data.source: found the number 5; expected text or a mapping; write '5' in quotes if text is meant",
    ),
    (
        NO_DATA,
        "data: {source: [a.csv, b.csv]}\n",
        "r.yaml:3: data.source: found a list; expected text or a mapping",
    ),
    (
        NO_DATA,
        "data: {source: {}}\n",
        "r.yaml:3: data.source: found no split; expected {split: source}, for instance {train: a.csv, test: b.csv}",
    ),
    (
        NO_DATA,
        "data: {source: {train: 1, test: b.csv}}\n",
        "r.yaml:3: data.source.train: found the number 1; expected text; write '1' in quotes if text is meant",
    ),
    (
        NO_DATA,
        "data: {source: a.csv, columns: {image: 3}}\n",
        "r.yaml:3: data.columns.image: found the number 3; expected text or a list; write '3' in quotes if text is meant",
    ),
    (
        NO_DATA,
        "data: {source: a.csv, columns: image}\n",
        "r.yaml:3: data.columns: found the text 'image'; expected a mapping",
    ),
    (
        NO_DATA,
        "data: {source: a.csv, limit: 0}\n",
        "r.yaml:3: data.limit: found the number 0; expected a number above 0 or at least 1",
    ),
    (
        NO_DATA,
        "data: {source: a.csv, limit: -0.5}\n",
        "r.yaml:3: data.limit: found the number -0.5; expected a number above 0 or a whole number",
    ),
    (
        NO_DATA,
        "data: {source: a.csv, limit: 1.5}\n",
        "r.yaml:3: data.limit: found the number 1.5; expected a number below 1 or a whole number",
    ),
    (
        NO_DATA,
        "data: {source: a.csv, on_bad: ignore}\n",
        "r.yaml:3: data.on_bad: found the text 'ignore'; expected one of error, skip",
    ),
    (
        NO_DATA,
        "data: {source: a.csv, sampler: balance}\n",
        "r.yaml:3: data.sampler: found the text 'balance'; expected one of shuffle, balanced; did you mean balanced?",
    ),
    (
        NO_DATA,
        "data: {source: a.csv, split: 0.1}\n",
        "r.yaml:3: data.split: found the number 0.1; expected a mapping of keys and values",
    ),
    (
        NO_DATA,
        "data: {source: a.csv, split: {validation: 1.0}}\n",
        "r.yaml:3: data.split.validation: found the number 1.0; expected a number below 1, a whole number or text",
    ),
    (
        NO_DATA,
        "data: {source: a.csv, split: {val: 0.1}}\n",
        "r.yaml:3: data.split.val: unknown key; write data.split.validation",
    ),
    (
        NO_DATA,
        "data: {source: a.csv, split: {stratify: sometimes}}\n",
        "r.yaml:3: data.split.stratify: found the text 'sometimes'; expected true or false",
    ),
    (
        NO_DATA,
        "data: {source: a.csv, split: {group_by: patient}}\n",
        "r.yaml:3: data.split.group_by: unknown key; write data.split.by",
    ),
    (
        NO_DATA,
        "data: {source: a.csv, stratify: true}\n",
        "r.yaml:3: data.stratify: unknown key here; it belongs to data.split: data.split.stratify",
    ),
    (
        NO_DATA,
        "data: {path: a.csv}\n",
        (
            "r.yaml:3: data.source: missing; expected: Hub id, folder, file, glob, https address, `sample:NAME`, `py:module:function`; or {split: source}\n"
            "r.yaml:3: data.path: unknown key; write data.source"
        ),
    ),
    (
        NO_MODEL,
        "model: {name: 5}\n",
        "r.yaml:3: model.name: found the number 5; expected text; write '5' in quotes if text is meant",
    ),
    (
        NO_MODEL,
        "model: {name: m, revision: 1}\n",
        "r.yaml:3: model.revision: found the number 1; expected text; write '1' in quotes if text is meant",
    ),
    (
        NO_MODEL,
        "model: {name: m, from_scratch: 'no'}\n",
        "r.yaml:3: model.from_scratch: found the text 'no'; expected true or false; write false without quotes",
    ),
    (NO_MODEL, "model: {name: m, config: [a]}\n", "r.yaml:3: model.config: found a list; expected a mapping"),
    (
        NO_MODEL,
        "model: {name_or_path: m}\n",
        (
            "r.yaml:3: model.name: missing; expected: Hub id, local folder, or `sample:NAME`\n"
            "r.yaml:3: model.name_or_path: unknown key; the keys here are name, revision, from_scratch, config, processor, attn_implementation"
        ),
    ),
    (
        NO_MODEL,
        "model: {name: m, freeze: head}\n",
        "r.yaml:3: model.freeze: unknown key here; it belongs to the top level: freeze",
    ),
    (
        NO_MODEL,
        "model: {name: m, trust_remote_code: true}\n",
        "r.yaml:3: model.trust_remote_code: not allowed: a recipe cannot allow code from elsewhere to run; choose a model whose code is in transformers",
    ),
    (
        NO_MODEL,
        "model: {name: m, config: {trust_remote_code: true}}\n",
        "r.yaml:3: model.config.trust_remote_code: not allowed: a recipe cannot allow code from elsewhere to run; choose a model whose code is in transformers",
    ),
    (
        NO_MODEL,
        "model: {name: m, token: abc}\n",
        "r.yaml:3: model.token: not allowed: a recipe holds no secret; run `hf auth login`, or set HF_TOKEN in the environment",
    ),
    (
        NO_MODEL,
        "model: {name: m, revision: hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ}\n",
        "r.yaml:3: model.revision: found what looks like a token of the Hub; a recipe holds no secret; run `hf auth login`, or set HF_TOKEN in the environment",
    ),
    # Freezing
    (ALL, "freeze: lorra\n", "r.yaml:4: freeze.strategy: there is no strategy 'lorra'; did you mean lora?"),
    (
        ALL,
        "freeze: {strategy: 5}\n",
        "r.yaml:4: freeze.strategy: found the number 5; expected the name of a strategy: full, head, last, patterns, or a PEFT method",
    ),
    (ALL, "freeze: LoRA\n", "r.yaml:4: freeze.strategy: there is no strategy 'LoRA'; did you mean lora?"),
    (
        ALL,
        "freeze: prefix_tuning\n",
        "r.yaml:4: freeze.strategy: prefix_tuning trains tokens in the prompt of a language model instead of its layers, and no task here has a prompt; use lora, dora, ia3, vera, oft, ...",
    ),
    (
        ALL,
        "freeze: p_tuning\n",
        "r.yaml:4: freeze.strategy: p_tuning trains tokens in the prompt of a language model instead of its layers, and no task here has a prompt; use lora, dora, ia3, vera, oft, ...",
    ),
    (
        ALL,
        "freeze: adaption_prompt\n",
        "r.yaml:4: freeze.strategy: adaption_prompt trains tokens in the prompt of a language model instead of its layers, and no task here has a prompt; use lora, dora, ia3, vera, oft, ...",
    ),
    (
        ALL,
        "freeze: xlora\n",
        "r.yaml:4: freeze.strategy: xlora mixes LoRA adapters that were trained before; use lora, dora, ia3, vera, oft, ...",
    ),
    (
        ALL,
        "freeze: last\n",
        "r.yaml:4: freeze.n: missing; expected: For `last`: how many of the last blocks learn, beside the head",
    ),
    (ALL, "freeze: {strategy: last, n: 0}\n", "r.yaml:4: freeze.n: found the number 0; expected at least 1"),
    (
        ALL,
        "freeze: {strategy: last, n: all}\n",
        "r.yaml:4: freeze.n: found the text 'all'; expected a whole number",
    ),
    (
        ALL,
        "freeze: {strategy: head, n: 2}\n",
        "r.yaml:4: freeze.n: only strategy last has this key, and the strategy is head; remove the key",
    ),
    (
        ALL,
        "freeze: patterns\n",
        "r.yaml:4: freeze.patterns: missing; expected: For `patterns`: parameters whose names match one of these learn (globs or regular expressions)",
    ),
    (
        ALL,
        "freeze: {strategy: patterns, patterns: []}\n",
        "r.yaml:4: freeze.patterns: found an empty list; expected a list of at least 1",
    ),
    (
        ALL,
        "freeze: {strategy: patterns, patterns: layer.1}\n",
        "r.yaml:4: freeze.patterns: found the text 'layer.1'; expected a list; write [layer.1]",
    ),
    (
        ALL,
        "freeze: {strategy: lora, patterns: [a]}\n",
        "r.yaml:4: freeze.patterns: only strategy patterns has this key, and the strategy is lora; remove the key",
    ),
    (
        ALL,
        "freeze: {strategy: head, r: 8}\n",
        "r.yaml:4: freeze.r: only PEFT methods (lora, dora, ia3, ...) have this key, and the strategy is head",
    ),
    (
        ALL,
        "freeze: {r: 8}\n",
        "r.yaml:4: freeze.r: only PEFT methods (lora, dora, ia3, ...) have this key, and the strategy is full",
    ),
    (ALL, "freeze: {strategy: lora, r: 0}\n", "r.yaml:4: freeze.r: found the number 0; expected at least 1"),
    (
        ALL,
        "freeze: {strategy: lora, r: 8.5}\n",
        "r.yaml:4: freeze.r: found the number 8.5; expected a whole number",
    ),
    (ALL, "freeze: {strategy: lora, rank: 8}\n", "r.yaml:4: freeze.rank: unknown key; write freeze.r"),
    (
        ALL,
        "freeze: {strategy: lora, lora_alpah: 8}\n",
        "r.yaml:4: freeze.lora_alpah: unknown key; did you mean lora_alpha?",
    ),
    (
        ALL,
        "freeze: {strategy: lora, lora_dropout: 1.0}\n",
        "r.yaml:4: freeze.lora_dropout: found the number 1.0; expected a number below 1",
    ),
    (
        ALL,
        "freeze: {strategy: lora, bias: some}\n",
        "r.yaml:4: freeze.bias: found the text 'some'; expected one of none, all, lora_only",
    ),
    (
        ALL,
        "freeze: {strategy: lora, task_type: SEQ_CLS}\n",
        "r.yaml:4: freeze.task_type: unknown key; the keys here are strategy, n, patterns, head_lr_multiplier, head_weight_decay, r, target_modules, exclude_modules, lora_alpha, lora_dropout, fan_in_fan_out, bias, ... (`hf-ft schema` lists them all)",
    ),
    (
        ALL,
        "freeze: {strategy: dora, use_dora: false}\n",
        "r.yaml:4: freeze.use_dora: dora is LoRA with use_dora: true; remove the key",
    ),
    (
        ALL,
        "freeze: {strategy: ia3, r: 8}\n",
        "r.yaml:4: freeze.r: the strategy ia3 has no such key; its keys are strategy, n, patterns, head_lr_multiplier, head_weight_decay, target_modules, exclude_modules, feedforward_modules, fan_in_fan_out, modules_to_save, init_ia3_weights",
    ),
    (
        ALL,
        "freeze: {head_lr_multiplier: 0}\n",
        "r.yaml:4: freeze.head_lr_multiplier: found the number 0; expected a number above 0",
    ),
    (
        ALL,
        "freeze: {head_lr_multiplier: ten}\n",
        "r.yaml:4: freeze.head_lr_multiplier: found the text 'ten'; expected a number",
    ),
    (
        ALL,
        "freeze: {head_weight_decay: -0.1}\n",
        "r.yaml:4: freeze.head_weight_decay: found the number -0.1; expected at least 0",
    ),
    (
        ALL,
        "freeze: {strategy: lora, target_modules: 5}\n",
        "r.yaml:4: freeze.target_modules: found the number 5; expected a list or text; write '5' in quotes if text is meant",
    ),
    (
        ALL,
        "freeze: {layers: 3}\n",
        "r.yaml:4: freeze.layers: unknown key; the keys here are strategy, n, patterns, head_lr_multiplier, head_weight_decay",
    ),
    # The task's own sections
    (
        ALL,
        "augment: lite\n",
        "r.yaml:4: augment.policy: found the text 'lite'; expected one of none, light; did you mean light?",
    ),
    (
        ALL,
        "augment: {policy: 3}\n",
        "r.yaml:4: augment.policy: found the number 3; expected one of none, light",
    ),
    (
        ALL,
        "augment: {policy: light, mixup: 2}\n",
        "r.yaml:4: augment.mixup: found the number 2; expected a number below 1",
    ),
    (ALL, "augment: {polcy: light}\n", "r.yaml:4: augment.polcy: unknown key; did you mean policy?"),
    (ALL, "loss: focal\n", "r.yaml:4: loss: found the text 'focal'; expected a mapping of keys and values"),
    (
        ALL,
        "loss: {class_weights: balance}\n",
        "r.yaml:4: loss.class_weights: found the text 'balance'; expected balanced or a mapping",
    ),
    (
        ALL,
        "loss: {class_weights: {stop: heavy}}\n",
        "r.yaml:4: loss.class_weights.stop: found the text 'heavy'; expected a number",
    ),
    (
        ALL,
        "loss: {label_smoothing: lots}\n",
        "r.yaml:4: loss.label_smoothing: found the text 'lots'; expected a number",
    ),
    (
        NO_TASK,
        "task: toy:PlainTask\naugment: light\n",
        "r.yaml:4: augment.policy: unknown key; the task toy:PlainTask has no options in this section",
    ),
    (
        NO_TASK,
        "task: toy:PlainTask\nloss: {class_weights: balanced}\n",
        "r.yaml:4: loss.class_weights: unknown key; the task toy:PlainTask has no options in this section",
    ),
    # Training
    (
        ALL,
        "train: {learnig_rate: 1e-4}\n",
        "r.yaml:4: train.learnig_rate: unknown key; did you mean learning_rate?",
    ),
    (ALL, "train: {lr: 1e-4}\n", "r.yaml:4: train.lr: unknown key; write train.learning_rate"),
    (
        ALL,
        "train: {learning_rate: 0}\n",
        "r.yaml:4: train.learning_rate: found the number 0; expected auto or a number above 0",
    ),
    (
        ALL,
        "train: {learning_rate: -1e-4}\n",
        "r.yaml:4: train.learning_rate: found the number -0.0001; expected auto or a number above 0",
    ),
    (
        ALL,
        "train: {num_train_epochs: 0}\n",
        "r.yaml:4: train.num_train_epochs: found the number 0; expected auto or a number above 0",
    ),
    (
        ALL,
        "train: {num_train_epochs: -3}\n",
        "r.yaml:4: train.num_train_epochs: found the number -3; expected auto or a number above 0",
    ),
    (
        ALL,
        "train: {num_train_epochs: x}\n",
        "r.yaml:4: train.num_train_epochs: found the text 'x'; expected auto or a number",
    ),
    (ALL, "train: {epochs: 3}\n", "r.yaml:4: train.epochs: unknown key; write train.num_train_epochs"),
    (ALL, "train: {max_steps: 0}\n", "r.yaml:4: train.max_steps: found the number 0; expected at least 1"),
    (
        ALL,
        "train: {max_steps: 10.5}\n",
        "r.yaml:4: train.max_steps: found the number 10.5; expected a whole number",
    ),
    (
        ALL,
        "train: {global_batch_size: 0}\n",
        "r.yaml:4: train.global_batch_size: found the number 0; expected auto or at least 1",
    ),
    (
        ALL,
        "train: {global_batch_size: x}\n",
        "r.yaml:4: train.global_batch_size: found the text 'x'; expected auto or a whole number",
    ),
    (
        ALL,
        "train: {global_batch_size: 32.0}\n",
        "r.yaml:4: train.global_batch_size: found the number 32.0; expected auto or a whole number",
    ),
    (
        ALL,
        "train: {batch_size: 32}\n",
        "r.yaml:4: train.batch_size: unknown key; write train.global_batch_size",
    ),
    (
        ALL,
        "train: {per_device_train_batch_size: -1}\n",
        "r.yaml:4: train.per_device_train_batch_size: found the number -1; expected at least 1",
    ),
    (
        ALL,
        "train: {per_device_eval_batch_size: 0}\n",
        "r.yaml:4: train.per_device_eval_batch_size: found the number 0; expected at least 1",
    ),
    (
        ALL,
        "train: {gradient_accumulation_steps: 4}\n",
        "r.yaml:4: train.gradient_accumulation_steps: not a key of a recipe: derived; write train.global_batch_size, the rows per optimizer step",
    ),
    (
        ALL,
        "train: {precision: 16}\n",
        "r.yaml:4: train.precision: found the number 16; expected one of auto, fp32, tf32, bf16, fp16; did you mean fp16?",
    ),
    (
        ALL,
        "train: {precision: float16}\n",
        "r.yaml:4: train.precision: found the text 'float16'; expected one of auto, fp32, tf32, bf16, fp16",
    ),
    (
        ALL,
        "train: {bf16: true}\n",
        "r.yaml:4: train.bf16: not a key of a recipe: write train.precision: bf16 (or auto)",
    ),
    (
        ALL,
        "train: {fp16: true}\n",
        "r.yaml:4: train.fp16: not a key of a recipe: write train.precision: fp16 (or auto)",
    ),
    (
        ALL,
        "train: {torch_compile: true}\n",
        "r.yaml:4: train.torch_compile: not a key of a recipe: write train.compile: true",
    ),
    (
        ALL,
        "train: {optim: adamw}\n",
        "r.yaml:4: train.optim: found the text 'adamw'; expected one of 41 names, near to it adamw_torch, adamw_torch_fused or adamw_torch_xla",
    ),
    (
        ALL,
        "train: {optim: addam}\n",
        "r.yaml:4: train.optim: found the text 'addam'; expected one of 41 names, near to it adalomo or ademamix",
    ),
    (
        ALL,
        "train: {optim: banana}\n",
        "r.yaml:4: train.optim: found the text 'banana'; expected one of {OPTIMIZERS}",
    ),
    (
        ALL,
        "train: {momentum: 0.9}\n",
        "r.yaml:4: train.momentum: unknown key; write train.optim_args: momentum=0.9",
    ),
    (
        ALL,
        "train: {lr_scheduler_type: exponentiel}\n",
        "r.yaml:4: train.lr_scheduler_type: found the text 'exponentiel'; expected one of {SCHEDULES}; did you mean exponential?",
    ),
    (
        ALL,
        "train: {lr_scheduler_type: exponential, lr_scheduler_kwargs: {gamma: 0.9}}\n",
        "r.yaml:4: train.lr_scheduler_kwargs: the schedule exponential takes {final: a number above 0 and below 1}, for instance {final: 0.01}",
    ),
    (
        ALL,
        "train: {lr_scheduler_type: exponential, lr_scheduler_kwargs: {final: 2.0}}\n",
        "r.yaml:4: train.lr_scheduler_kwargs: the schedule exponential takes {final: a number above 0 and below 1}, for instance {final: 0.01}",
    ),
    (
        ALL,
        "train: {warmup_ratio: 0.1}\n",
        "r.yaml:4: train.warmup_ratio: not a key of a recipe: removed in transformers 5; write train.warmup_steps: 0.1 (below 1: share of steps)",
    ),
    (
        ALL,
        "train: {warmup_steps: -1}\n",
        "r.yaml:4: train.warmup_steps: found the number -1; expected at least 0",
    ),
    (
        ALL,
        "train: {weight_decay: -0.1}\n",
        "r.yaml:4: train.weight_decay: found the number -0.1; expected at least 0",
    ),
    (
        ALL,
        "train: {adam_beta1: 1.0}\n",
        "r.yaml:4: train.adam_beta1: found the number 1.0; expected a number below 1",
    ),
    (
        ALL,
        "train: {max_grad_norm: null}\n",
        "r.yaml:4: train.max_grad_norm: found nothing (null); expected a number",
    ),
    (
        ALL,
        "train: {eval_strategy: epochs}\n",
        "r.yaml:4: train.eval_strategy: found the text 'epochs'; expected one of no, steps, epoch; did you mean epoch?",
    ),
    (
        ALL,
        "train: {save_strategy: epoch}\n",
        "r.yaml:4: train.save_strategy: not a key of a recipe: a checkpoint is written at each evaluation; write train.eval_strategy",
    ),
    (
        ALL,
        "train: {save_steps: 100}\n",
        "r.yaml:4: train.save_steps: not a key of a recipe: a checkpoint is written at each evaluation; write train.eval_steps",
    ),
    (
        ALL,
        "train: {logging_strategy: always}\n",
        "r.yaml:4: train.logging_strategy: found the text 'always'; expected one of no, steps, epoch",
    ),
    (
        ALL,
        "train: {accelerator_config: {split_batches: true}}\n",
        "r.yaml:4: train.accelerator_config: not a key of a recipe: the engine deals the rows out to the processes itself; remove the key",
    ),
    (
        ALL,
        "train: {evaluation_strategy: epoch}\n",
        "r.yaml:4: train.evaluation_strategy: not a key of a recipe: removed in transformers 5; write train.eval_strategy",
    ),
    (
        ALL,
        "train: {eval_strategy: no, early_stopping_patience: 3}\n",
        "r.yaml:4: train.early_stopping_patience: early stopping needs evaluations, and train.eval_strategy is no; write epoch or steps",
    ),
    (
        ALL,
        "train: {early_stopping_patience: 0}\n",
        "r.yaml:4: train.early_stopping_patience: found the number 0; expected auto or at least 1",
    ),
    (
        ALL,
        "train: {patience: 3}\n",
        "r.yaml:4: train.patience: unknown key; write train.early_stopping_patience",
    ),
    (
        ALL,
        "train: {load_best_model_at_end: true}\n",
        "r.yaml:4: train.load_best_model_at_end: not a key of a recipe: the best checkpoint is always loaded; remove the key",
    ),
    (
        ALL,
        "train: {metric_for_best_model: f1}\n",
        "r.yaml:4: train.metric_for_best_model: not a key of a recipe: write evaluate.metric",
    ),
    (
        ALL,
        "train: {greater_is_better: true}\n",
        "r.yaml:4: train.greater_is_better: not a key of a recipe: write evaluate.mode: min or max, and only where the task does not know the metric",
    ),
    (
        ALL,
        "train: {label_smoothing_factor: 0.1}\n",
        "r.yaml:4: train.label_smoothing_factor: not a key of a recipe: write it in the section loss",
    ),
    (
        ALL,
        "train: {remove_unused_columns: false}\n",
        "r.yaml:4: train.remove_unused_columns: not a key of a recipe: the columns are mapped by data.columns; remove the key",
    ),
    (
        ALL,
        "train: {overwrite_output_dir: true}\n",
        "r.yaml:4: train.overwrite_output_dir: not a key of a recipe: removed in transformers 5; a finished run is kept, choose another output_dir",
    ),
    (
        ALL,
        "train: {logging_dir: logs}\n",
        "r.yaml:4: train.logging_dir: not a key of a recipe: removed in transformers 5; the log is <output_dir>/log.jsonl",
    ),
    (
        ALL,
        "train: {group_by_length: true}\n",
        "r.yaml:4: train.group_by_length: not a key of a recipe: removed in transformers 5; write data.sampler",
    ),
    (
        ALL,
        "train: {no_cuda: true}\n",
        "r.yaml:4: train.no_cuda: not a key of a recipe: removed in transformers 5; write train.use_cpu: true",
    ),
    (
        ALL,
        "train: {tokenizer: bert}\n",
        "r.yaml:4: train.tokenizer: not a key of a recipe: removed in transformers 5; it comes with model.name, its overrides are model.processor",
    ),
    (
        ALL,
        "train: {per_gpu_train_batch_size: 8}\n",
        "r.yaml:4: train.per_gpu_train_batch_size: not a key of a recipe: removed in transformers 5; write train.global_batch_size",
    ),
    (
        ALL,
        "train: {seed: 3}\n",
        "r.yaml:4: train.seed: not a key of a recipe: write it at the top level: seed",
    ),
    (
        ALL,
        "train: {output_dir: runs/x}\n",
        "r.yaml:4: train.output_dir: not a key of a recipe: write it at the top level: output_dir",
    ),
    (
        ALL,
        "train: {resume_from_checkpoint: true}\n",
        "r.yaml:4: train.resume_from_checkpoint: not a key of a recipe: a run resumes by itself from its newest complete checkpoint; remove the key",
    ),
    (
        ALL,
        "train: {push_to_hub: true}\n",
        "r.yaml:4: train.push_to_hub: not a key of a recipe: write publish.repo: namespace/name",
    ),
    (
        ALL,
        "train: {hub_model_id: me/x}\n",
        "r.yaml:4: train.hub_model_id: not a key of a recipe: write publish.repo: namespace/name",
    ),
    (
        ALL,
        "publish: me/x\n",
        "r.yaml:4: publish: found the text 'me/x'; expected a mapping of keys and values; write publish: {repo: me/x}",
    ),
    (
        ALL,
        "publish: {repo: me/my/x}\n",
        "r.yaml:4: publish.repo: found 'me/my/x'; expected namespace/name of letters, digits, `-`, `_` and `.`, neither `--` nor `..` in it, at most 96",
    ),
    (
        ALL,
        "publish: {token: abc}\n",
        "r.yaml:4: publish.token: not allowed: a recipe holds no secret; run `hf auth login`, or set HF_TOKEN in the environment",
    ),
    (
        ALL,
        "train: {hub_token: abc}\n",
        "r.yaml:4: train.hub_token: not allowed: a recipe holds no secret; run `hf auth login`, or set HF_TOKEN in the environment",
    ),
    (
        ALL,
        "train: {gradient_checkpointing: true}\n",
        "r.yaml:4: train.gradient_checkpointing: not a key of a recipe: renamed by transformers; write train.activation_checkpointing",
    ),
    (
        ALL,
        "train: {auto_find_batch_size: true}\n",
        "r.yaml:4: train.auto_find_batch_size: not a key of a recipe: derived; write train.global_batch_size, and bound the rows on one device by train.per_device_train_batch_size",
    ),
    (ALL, "train: {r: 8}\n", "r.yaml:4: train.r: unknown key here; it belongs to freeze: freeze.r"),
    (
        ALL,
        "train: {metric: f1}\n",
        "r.yaml:4: train.metric: unknown key here; it belongs to evaluate: evaluate.metric",
    ),
    (
        ALL,
        "train: {freeze: head}\n",
        "r.yaml:4: train.freeze: unknown key here; it belongs to the top level: freeze",
    ),
    (
        ALL,
        "train: {logging_steps: 0}\n",
        "r.yaml:4: train.logging_steps: found the number 0; expected a number above 0",
    ),
    (
        ALL,
        "train: {report_to: 5}\n",
        "r.yaml:4: train.report_to: found the number 5; expected text or a list; write '5' in quotes if text is meant",
    ),
    (
        ALL,
        "train: {dataloader_num_workers: -1}\n",
        "r.yaml:4: train.dataloader_num_workers: found the number -1; expected at least 0",
    ),
    (
        ALL,
        "train: {use_cpu: 'true'}\n",
        "r.yaml:4: train.use_cpu: found the text 'true'; expected true or false; write true without quotes",
    ),
    (
        ALL,
        "train: {log_level: loud}\n",
        "r.yaml:4: train.log_level: found the text 'loud'; expected one of debug, info, warning, error, critical, passive",
    ),
    (
        ALL,
        "train: {save_total_limit: 0}\n",
        "r.yaml:4: train.save_total_limit: found the number 0; expected at least 1",
    ),
    (
        ALL,
        "train: {activation_checkpointing_kwargs: 5}\n",
        "r.yaml:4: train.activation_checkpointing_kwargs: found the number 5; expected a mapping or text; write '5' in quotes if text is meant",
    ),
    (
        ALL,
        "train: {fsdp: full_shard}\n",
        "r.yaml:4: train.fsdp: not a key of a recipe: it divides the model; launch with accelerate_configs/multi_gpu.yaml",
    ),
    # Evaluation
    (
        ALL,
        "evaluate: {metric: 5}\n",
        "r.yaml:4: evaluate.metric: found the number 5; expected text; write '5' in quotes if text is meant",
    ),
    (ALL, "evaluate: {metric: [accuracy, f1]}\n", "r.yaml:4: evaluate.metric: found a list; expected text"),
    (
        ALL,
        "evaluate: {metric: acuracy}\n",
        "r.yaml:4: evaluate.metric: found the metric 'acuracy'; expected accuracy; for one of evaluate.extra, write evaluate.mode: min or max",
    ),
    (
        ALL,
        "evaluate: {mode: maximum}\n",
        "r.yaml:4: evaluate.mode: found the text 'maximum'; expected one of min, max; did you mean max?",
    ),
    (
        ALL,
        "evaluate: {mode: min}\n",
        "r.yaml:4: evaluate.mode: found min, and of accuracy more is better; remove the key",
    ),
    (
        ALL,
        "evaluate: {metric: accuracy, mode: min}\n",
        "r.yaml:4: evaluate.mode: found min, and of accuracy more is better; remove the key",
    ),
    (
        ALL,
        "evaluate: {extra: accuracy}\n",
        "r.yaml:4: evaluate.extra: found the text 'accuracy'; expected a list; write [accuracy]",
    ),
    (
        ALL,
        "evaluate: {intervals: true}\n",
        "r.yaml:4: evaluate.intervals: found true; expected one of bootstrap, none",
    ),
    (
        ALL,
        "evaluate: {resamples: 10}\n",
        "r.yaml:4: evaluate.resamples: found the number 10; expected at least 100",
    ),
    (
        ALL,
        "evaluate: {resamples: 1000000}\n",
        "r.yaml:4: evaluate.resamples: found the number 1000000; expected at most 100000",
    ),
    (
        ALL,
        "evaluate: {confidence: 95}\n",
        "r.yaml:4: evaluate.confidence: found the number 95; expected a number below 1",
    ),
    (
        ALL,
        "evaluate: {confidence: 0}\n",
        "r.yaml:4: evaluate.confidence: found the number 0; expected a number above 0",
    ),
    (ALL, "evaluate: {metrics: accuracy}\n", "r.yaml:4: evaluate.metrics: unknown key; did you mean metric?"),
    (
        ALL,
        "evaluate: {num_train_epochs: 3}\n",
        "r.yaml:4: evaluate.num_train_epochs: unknown key here; it belongs to train: train.num_train_epochs",
    ),
    # Several errors at once
    (
        ALL,
        "seed: x\ntrain:\n  lr: 1\n  compile: maybe\n",
        (
            "r.yaml:4: seed: found the text 'x'; expected a whole number\n"
            "r.yaml:6: train.lr: unknown key; write train.learning_rate\n"
            "r.yaml:7: train.compile: found the text 'maybe'; expected true or false or auto"
        ),
    ),
    (
        NOTHING,
        "tsk: toy:ToyTask\n",
        (
            "r.yaml: task: missing; expected the name of a task: {TASKS}\n"
            "r.yaml: data: missing section (where the rows come from and which column plays which role)\n"
            "r.yaml: model: missing section (the pretrained model to start from)\n"
            "r.yaml:1: tsk: unknown key; did you mean task?"
        ),
    ),
]

OVERRIDES: list[tuple[list[str], str]] = [
    (
        ["train.learnig_rate=3"],
        "override train.learnig_rate=3: train.learnig_rate: unknown key; did you mean learning_rate?",
    ),
    (
        ["train.learning_rate=fast"],
        "override train.learning_rate=fast: train.learning_rate: found the text 'fast'; expected auto or a number",
    ),
    (
        ["train.learning_rate"],
        "override train.learning_rate: expected key.path=value, for instance train.learning_rate=1e-4",
    ),
    (["=3"], "override =3: expected key.path=value, for instance train.learning_rate=1e-4"),
    (
        ["train..optim=sgd"],
        "override train..optim=sgd: expected key.path=value, for instance train.learning_rate=1e-4",
    ),
    (["seed.a=3"], "override seed.a=3: seed: found a mapping; expected a whole number"),
    (["lr=0.1"], "override lr=0.1: lr: unknown key; write train.learning_rate"),
    (
        ["data.source.train=5"],
        "override data.source.train=5: data.source is not a mapping, so nothing can be set inside it",
    ),
    (
        ["model.name=010"],
        "override model.name=010: model.name: found 010, a number with a leading zero; write '010' for text, 10 for the number",
    ),
    (["train={a: 1"], "override train={a: 1: found a `{` that is never closed, or an entry without a comma"),
    (
        ["train.optim=[sgd"],
        "override train.optim=[sgd: found a `[` that is never closed, or an entry without a comma",
    ),
    (
        ["freeze=lorra"],
        "override freeze=lorra: freeze.strategy: there is no strategy 'lorra'; did you mean lora?",
    ),
    (
        ["freeze.strategy=head", "freeze.r=4"],
        "override freeze.r=4: freeze.r: only PEFT methods (lora, dora, ia3, ...) have this key, and the strategy is head",
    ),
    (
        ["model.token=abc"],
        "override model.token: model.token: not allowed: a recipe holds no secret; run `hf auth login`, or set HF_TOKEN in the environment",
    ),
]


def message_of(tmp_path, monkeypatch, text, overrides=()):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe("r.yaml", overrides)
    return str(caught.value)


def expected(message):
    for name, value in NAMES.items():
        message = message.replace(name, value)
    return message


@pytest.mark.parametrize(("start", "text", "message"), BAD)
def test_message(tmp_path, monkeypatch, start, text, message):
    assert message_of(tmp_path, monkeypatch, start + text) == expected(message)


@pytest.mark.parametrize(("overrides", "message"), OVERRIDES)
def test_message_of_an_override(tmp_path, monkeypatch, overrides, message):
    assert message_of(tmp_path, monkeypatch, ALL, overrides) == expected(message)


def test_there_are_a_hundred():
    assert len(BAD) + len(OVERRIDES) >= 100


def test_the_start_is_right(tmp_path, monkeypatch):
    """Every message comes from its row, not from what stands before it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(ALL, encoding="utf-8")
    assert load_recipe("r.yaml").name == "r"
