# ruff: noqa: E501
"""Bad recipes, and the words that the error message must contain.

A row is `TEXT => LINE KEY: PIECES`. The text follows a start that is right by itself, `\\n` in it is a new line;
LINE is `-` where a message names none. The pieces are what was found, what was expected and the suggestion: each
must stand in the message as a word of its own, as often as it is listed. ` + ` parts the messages of one recipe.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest

from hf_ft.errors import RecipeError
from hf_ft.recipe import messages
from hf_ft.recipe.read import load_recipe

SECTIONS = "task data model freeze augment loss train cache evaluate publish"
TASKS = "image-classification text-classification time-series-forecasting time-series-regression"
# What stands before the text of a row.
STARTS = {
    "NOTHING": "",
    "ALL": "task: toy:ToyTask\ndata: {source: a.csv}\nmodel: {name: m}\n",
    "NO_TASK": "data: {source: a.csv}\nmodel: {name: m}\n",
    "NO_DATA": "task: toy:ToyTask\nmodel: {name: m}\n",
    "NO_MODEL": "task: toy:ToyTask\ndata: {source: a.csv}\n",
}
MAPPING = {"task": "toy:ToyTask", "data": {"source": "a.csv"}, "model": {"name": "m"}}

BAD = r"""
## NOTHING: the text itself
 => -: empty SECTIONS
# only a comment => -: empty SECTIONS
- task\n- data => -: mapping SECTIONS
hello => -: mapping SECTIONS
42 => -: mapping SECTIONS
## ALL
train:\n\tcompile: true => 5: tab spaces
train: {compile: true => 4: {
freeze: {strategy: patterns, patterns: [a, b} => 4: [
name: 'abc => 4: quote
train: num_train_epochs: 3 => 4: second : indentation quotes
train:\n   optim: sgd\n  seed: 3 => 6: indentation quotes
 seed: 3 => 4: indentation quotes
name: 'a' b => 4: indentation quotes
name: @home => 4: @ quotes
name: *stored => 4: *stored anchor quotes
name: `x` => 4: ` quotes
train => 4: key :
---\nname: b => 4: second document ---
name: !!python/object:os.system x => 4: !!python/object:os.system tag plain
name: !secret x => 4: !secret tag plain
? [a, b]\n: c => 4: list mapping key text
a: &a {b: *a} => 4: alias itself
x: [[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]] => 4: 20 four levels
seed: 1\nseed: 2 => 4 seed: twice 4 5
train: {optim: sgd, optim: sgd} => 4 train.optim: twice 4 4
## ALL: values that readers of YAML disagree about
name: 2016-01-04 => 4 name: 2016-01-04 date '2016-01-04'
seed: 007 => 4 seed: 007 '007' text 7 number
train: {learning_rate: 01.5} => 4 train.learning_rate: 01.5 '01.5' text 1.5 number
train: {compile: yes} => 4 train.compile: yes true false auto true without quotes
train: {compile: off} => 4 train.compile: off true false auto false without quotes
train: {compile: 'true'} => 4 train.compile: true true false auto true without quotes
train: {compile: 1} => 4 train.compile: 1 true false auto
seed: '17' => 4 seed: 17 whole number quotes
train: {learning_rate: '5e-5'} => 4 train.learning_rate: 5e-5 auto number quotes
seed: 1_000 => 4 seed: 1_000 whole number
train: {learning_rate: .nan} => 4 train.learning_rate: nan auto finite number
train: {num_train_epochs: .inf} => 4 train.num_train_epochs: inf auto finite number
name: 5 => 4 name: 5 text '5' quotes
name: true => 4 name: true text 'true' quotes
name: null\noutput_dir: 3 => 5 output_dir: 3 text '3' quotes
## NO_DATA
data: {source: a.csv, revision: 2016-01-04} => 3 data.revision: 2016-01-04 date '2016-01-04'
data: {source: a.csv, id: 010} => 3 data.id: 010 '010' text 10 number
## NOTHING: the task
data: {source: a.csv}\nmodel: {name: m} => - task: TASKS
## NO_TASK
task: => 3 task: TASKS
task: {size: 3} => 3 task: TASKS
task: 5 => 3 task: 5 name options
task: [a] => 3 task: list name options
task: image-clasification => 3 task: image-clasification image-classification TASKS
task: image_classification => 3 task: image_classification image-classification TASKS
task: nowhere.at_all:Task => 3 task: nowhere.at_all:Task nowhere package.module:Class
task: toy:NoSuchTask => 3 task: toy:NoSuchTask NoSuchTask package.module:Class
task: toy:ToyOptions => 3 task: toy:ToyOptions toy.ToyOptions subclass hf_ft.Task
task: {name: 'toy:ToyTask', size: big} => 3 task.size: big whole number
task: {name: 'toy:ToyTask', sise: 8} => 3 task.sise: size
task: {name: 'toy:PlainTask', size: 8} => 3 task.size: name
task: {name: 'toy:HeadsTask', heads: [a], until: noon} => 3 task.until: noon time
task: {name: 'toy:HeadsTask', heads: [a, b, a]} => 3 task.heads: a b a once
## NOTHING: missing sections and keys
task: toy:ToyTask => - data: rows + - model: pretrained
task: toy:ToyTask\nmodel: {name: m} => - data: rows
task: toy:ToyTask\ndata: {source: a.csv} => - model: pretrained
tsk: toy:ToyTask => - task: TASKS + - data: missing + - model: missing + 1 tsk: task
## NO_DATA
data: => 3 data: null mapping
data: {} => 3 data.source: Hub folder file https sample:NAME py:module:function
data: a.csv => 3 data: a.csv mapping {source: a.csv}
## NO_MODEL
model: bert-base => 3 model: bert-base mapping {name: bert-base}
model: {revision: main} => 3 model.name: Hub folder sample:NAME
## ALL
train: fast => 4 train: fast mapping
train: [1, 2] => 4 train: list mapping
evaluate: accuracy => 4 evaluate: accuracy mapping {metric: accuracy}
## ALL: the top level
seed: -1 => 4 seed: -1 least 0
seed: 4294967296 => 4 seed: 4294967296 below 4294967296
seed: 1.5 => 4 seed: 1.5 whole number
seeds: [7, 7] => 4 seeds: 7 7 different
random_state: 3 => 4 random_state: seed
name: a/b => 4 name: a/b letters digits _ - .
name: .. => 4 name: .. letters digits _ - .
learning_rate: 0.1 => 4 learning_rate: train.learning_rate
epochs: 3 => 4 epochs: train.num_train_epochs
batch_size: 8 => 4 batch_size: train.global_batch_size
lr: 0.1 => 4 lr: train.learning_rate
metric: accuracy => 4 metric: evaluate.metric
source: a.csv => 4 source: data.source
trian: {} => 4 trian: train
datas: {} => 4 datas: data
optimizer: sgd => 4 optimizer: train.optim
dataset: cifar10 => 4 dataset: data.source
early_stoping_patience: 3 => 4 early_stoping_patience: train.early_stopping_patience
banana: 1 => 4 banana: name output_dir seed SECTIONS
<<: {seed: 1} => 4 <<: merge key
push_to_hub: true => 4 push_to_hub: publish.repo namespace/name
## ALL: the cache
cache: {decoded: 1} => 4 cache.decoded: 1 true false
cache: {decoded: auto} => 4 cache.decoded: auto true false
cache: {decode: true} => 4 cache.decode: decoded
## NO_DATA: data and model
data: {source: 5} => 3 data.source: 5 text mapping '5' quotes
data: {source: [a.csv, b.csv]} => 3 data.source: list text mapping
data: {source: {}} => 3 data.source: split {train: a.csv, test: b.csv}
data: {source: {train: 1, test: b.csv}} => 3 data.source.train: 1 text '1' quotes
data: {source: a.csv, columns: {image: 3}} => 3 data.columns.image: 3 text list '3' quotes
data: {source: a.csv, columns: image} => 3 data.columns: image mapping
data: {source: a.csv, limit: 0} => 3 data.limit: 0 above 0 least 1
data: {source: a.csv, limit: -0.5} => 3 data.limit: -0.5 above 0 whole number
data: {source: a.csv, limit: 1.5} => 3 data.limit: 1.5 below 1 whole number
data: {source: a.csv, on_bad: ignore} => 3 data.on_bad: ignore error skip
data: {source: a.csv, sampler: balance} => 3 data.sampler: balance shuffle balanced balanced
data: {source: a.csv, split: 0.1} => 3 data.split: 0.1 mapping
data: {source: a.csv, split: {validation: 1.0}} => 3 data.split.validation: 1.0 below 1 whole text
data: {source: a.csv, split: {val: 0.1}} => 3 data.split.val: data.split.validation
data: {source: a.csv, split: {stratify: sometimes}} => 3 data.split.stratify: sometimes true false
data: {source: a.csv, split: {group_by: patient}} => 3 data.split.group_by: data.split.by
data: {source: a.csv, stratify: true} => 3 data.stratify: data.split.stratify
data: {path: a.csv} => 3 data.source: Hub sample:NAME + 3 data.path: data.source
## NO_MODEL
model: {name: 5} => 3 model.name: 5 text '5' quotes
model: {name: m, revision: 1} => 3 model.revision: 1 text '1' quotes
model: {name: m, from_scratch: 'no'} => 3 model.from_scratch: no true false false without quotes
model: {name: m, config: [a]} => 3 model.config: list mapping
model: {name_or_path: m} => 3 model.name: Hub + 3 model.name_or_path: name revision processor
model: {name: m, freeze: head} => 3 model.freeze: top level freeze
model: {name: m, trust_remote_code: true} => 3 model.trust_remote_code: code transformers
model: {name: m, config: {trust_remote_code: true}} => 3 model.config.trust_remote_code: code
model: {name: m, token: abc} => 3 model.token: secret hf auth login HF_TOKEN
model: {name: m, revision: hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ} => 3 model.revision: token secret hf auth login HF_TOKEN
## ALL: freezing
freeze: lorra => 4 freeze.strategy: lorra lora
freeze: {strategy: 5} => 4 freeze.strategy: 5 full head last patterns PEFT
freeze: LoRA => 4 freeze.strategy: LoRA lora
freeze: prefix_tuning => 4 freeze.strategy: prefix_tuning prompt lora dora ia3 vera oft
freeze: p_tuning => 4 freeze.strategy: p_tuning prompt lora dora ia3 vera oft
freeze: adaption_prompt => 4 freeze.strategy: adaption_prompt prompt lora dora ia3 vera oft
freeze: xlora => 4 freeze.strategy: xlora adapters before lora dora ia3 vera oft
freeze: last => 4 freeze.n: last blocks
freeze: {strategy: last, n: 0} => 4 freeze.n: 0 least 1
freeze: {strategy: last, n: all} => 4 freeze.n: all whole number
freeze: {strategy: head, n: 2} => 4 freeze.n: last head
freeze: patterns => 4 freeze.patterns: patterns parameters
freeze: {strategy: patterns, patterns: []} => 4 freeze.patterns: empty list least 1
freeze: {strategy: patterns, patterns: layer.1} => 4 freeze.patterns: layer.1 list [layer.1]
freeze: {strategy: lora, patterns: [a]} => 4 freeze.patterns: patterns lora
freeze: {strategy: head, r: 8} => 4 freeze.r: PEFT lora dora ia3 head
freeze: {r: 8} => 4 freeze.r: PEFT lora dora ia3 full
freeze: {strategy: lora, r: 0} => 4 freeze.r: 0 least 1
freeze: {strategy: lora, r: 8.5} => 4 freeze.r: 8.5 whole number
freeze: {strategy: lora, rank: 8} => 4 freeze.rank: freeze.r
freeze: {strategy: lora, lora_alpah: 8} => 4 freeze.lora_alpah: lora_alpha
freeze: {strategy: lora, lora_dropout: 1.0} => 4 freeze.lora_dropout: 1.0 below 1
freeze: {strategy: lora, bias: some} => 4 freeze.bias: some none all lora_only
freeze: {strategy: lora, task_type: SEQ_CLS} => 4 freeze.task_type: strategy r target_modules hf-ft schema
freeze: {strategy: dora, use_dora: false} => 4 freeze.use_dora: dora use_dora: true
freeze: {strategy: ia3, r: 8} => 4 freeze.r: ia3 target_modules feedforward_modules init_ia3_weights
freeze: {head_lr_multiplier: 0} => 4 freeze.head_lr_multiplier: 0 above 0
freeze: {head_lr_multiplier: ten} => 4 freeze.head_lr_multiplier: ten number
freeze: {head_weight_decay: -0.1} => 4 freeze.head_weight_decay: -0.1 least 0
freeze: {strategy: lora, target_modules: 5} => 4 freeze.target_modules: 5 list text '5' quotes
freeze: {layers: 3} => 4 freeze.layers: strategy n patterns head_lr_multiplier head_weight_decay
## ALL: the task's own sections
augment: lite => 4 augment.policy: lite none light light
augment: {policy: 3} => 4 augment.policy: 3 none light
augment: {policy: light, mixup: 2} => 4 augment.mixup: 2 below 1
augment: {polcy: light} => 4 augment.polcy: policy
loss: focal => 4 loss: focal mapping
loss: {class_weights: balance} => 4 loss.class_weights: balance balanced mapping
loss: {class_weights: {stop: heavy}} => 4 loss.class_weights.stop: heavy number
loss: {label_smoothing: lots} => 4 loss.label_smoothing: lots number
## NO_TASK
task: toy:PlainTask\naugment: light => 4 augment.policy: toy:PlainTask no options
task: toy:PlainTask\nloss: {class_weights: balanced} => 4 loss.class_weights: toy:PlainTask no options
## ALL: training
train: {learnig_rate: 1e-4} => 4 train.learnig_rate: learning_rate
train: {lr: 1e-4} => 4 train.lr: train.learning_rate
train: {learning_rate: 0} => 4 train.learning_rate: 0 auto above 0
train: {learning_rate: -1e-4} => 4 train.learning_rate: -0.0001 auto above 0
train: {num_train_epochs: 0} => 4 train.num_train_epochs: 0 auto above 0
train: {num_train_epochs: -3} => 4 train.num_train_epochs: -3 auto above 0
train: {num_train_epochs: x} => 4 train.num_train_epochs: x auto number
train: {epochs: 3} => 4 train.epochs: train.num_train_epochs
train: {max_steps: 0} => 4 train.max_steps: 0 least 1
train: {max_steps: 10.5} => 4 train.max_steps: 10.5 whole number
train: {global_batch_size: 0} => 4 train.global_batch_size: 0 auto least 1
train: {global_batch_size: 4611686018427387904} => 4 train.global_batch_size: 4611686018427387904 auto most 1000000
train: {global_batch_size: x} => 4 train.global_batch_size: x auto whole number
train: {global_batch_size: 32.0} => 4 train.global_batch_size: 32.0 auto whole number
train: {threads: 1000000} => 4 train.threads: 1000000 auto most 1024
train: {batch_size: 32} => 4 train.batch_size: train.global_batch_size
train: {per_device_train_batch_size: -1} => 4 train.per_device_train_batch_size: -1 least 1
train: {per_device_eval_batch_size: 0} => 4 train.per_device_eval_batch_size: 0 least 1
train: {gradient_accumulation_steps: 4} => 4 train.gradient_accumulation_steps: train.global_batch_size
train: {precision: 16} => 4 train.precision: 16 auto fp32 tf32 bf16 fp16 fp16
train: {precision: float16} => 4 train.precision: float16 auto fp32 tf32 bf16 fp16
train: {bf16: true} => 4 train.bf16: train.precision: bf16 auto
train: {fp16: true} => 4 train.fp16: train.precision: fp16 auto
train: {torch_compile: true} => 4 train.torch_compile: train.compile: true
train: {optim: adamw} => 4 train.optim: adamw adamw_torch adamw_torch_fused adamw_torch_xla
train: {optim: addam} => 4 train.optim: addam adalomo ademamix
train: {optim: banana} => 4 train.optim: banana adamw_torch adafactor sgd
train: {momentum: 0.9} => 4 train.momentum: train.optim_args: momentum=0.9
train: {lr_scheduler_type: exponentiel} => 4 train.lr_scheduler_type: exponentiel linear cosine exponential exponential
train: {lr_scheduler_type: exponential, lr_scheduler_kwargs: {gamma: 0.9}} => 4 train.lr_scheduler_kwargs: exponential final above 0 below 1 {final: 0.01}
train: {lr_scheduler_type: exponential, lr_scheduler_kwargs: {final: 2.0}} => 4 train.lr_scheduler_kwargs: exponential final above 0 below 1 {final: 0.01}
train: {warmup_ratio: 0.1} => 4 train.warmup_ratio: train.warmup_steps: 0.1 share
train: {warmup_steps: -1} => 4 train.warmup_steps: -1 least 0
train: {weight_decay: -0.1} => 4 train.weight_decay: -0.1 least 0
train: {adam_beta1: 1.0} => 4 train.adam_beta1: 1.0 below 1
train: {max_grad_norm: null} => 4 train.max_grad_norm: null number
train: {eval_strategy: epochs} => 4 train.eval_strategy: epochs no steps epoch epoch
train: {save_strategy: epoch} => 4 train.save_strategy: evaluation train.eval_strategy
train: {save_steps: 100} => 4 train.save_steps: evaluation train.eval_steps
train: {logging_strategy: always} => 4 train.logging_strategy: always no steps epoch
train: {accelerator_config: {split_batches: true}} => 4 train.accelerator_config: processes
train: {evaluation_strategy: epoch} => 4 train.evaluation_strategy: train.eval_strategy
train: {eval_strategy: no, early_stopping_patience: 3} => 4 train.early_stopping_patience: train.eval_strategy no epoch steps
train: {early_stopping_patience: 0} => 4 train.early_stopping_patience: 0 auto least 1
train: {patience: 3} => 4 train.patience: train.early_stopping_patience
train: {load_best_model_at_end: true} => 4 train.load_best_model_at_end: best
train: {metric_for_best_model: f1} => 4 train.metric_for_best_model: evaluate.metric
train: {greater_is_better: true} => 4 train.greater_is_better: evaluate.mode: min max
train: {label_smoothing_factor: 0.1} => 4 train.label_smoothing_factor: section loss
train: {remove_unused_columns: false} => 4 train.remove_unused_columns: data.columns
train: {overwrite_output_dir: true} => 4 train.overwrite_output_dir: kept output_dir
train: {logging_dir: logs} => 4 train.logging_dir: <output_dir>/log.jsonl
train: {group_by_length: true} => 4 train.group_by_length: data.sampler
train: {no_cuda: true} => 4 train.no_cuda: train.use_cpu: true
train: {tokenizer: bert} => 4 train.tokenizer: model.name model.processor
train: {per_gpu_train_batch_size: 8} => 4 train.per_gpu_train_batch_size: train.global_batch_size
train: {seed: 3} => 4 train.seed: top level seed
train: {output_dir: runs/x} => 4 train.output_dir: top level output_dir
train: {resume_from_checkpoint: true} => 4 train.resume_from_checkpoint: resumes itself checkpoint
train: {push_to_hub: true} => 4 train.push_to_hub: publish.repo: namespace/name
train: {hub_model_id: me/x} => 4 train.hub_model_id: publish.repo: namespace/name
publish: me/x => 4 publish: me/x mapping {repo: me/x}
publish: {repo: me/my/x} => 4 publish.repo: me/my/x namespace/name letters digits - _ . -- .. 96
publish: {token: abc} => 4 publish.token: secret hf auth login HF_TOKEN
train: {hub_token: abc} => 4 train.hub_token: secret hf auth login HF_TOKEN
train: {gradient_checkpointing: true} => 4 train.gradient_checkpointing: train.activation_checkpointing
train: {auto_find_batch_size: true} => 4 train.auto_find_batch_size: train.global_batch_size train.per_device_train_batch_size
train: {r: 8} => 4 train.r: freeze.r
train: {metric: f1} => 4 train.metric: evaluate.metric
train: {freeze: head} => 4 train.freeze: top level freeze
train: {logging_steps: 0} => 4 train.logging_steps: 0 above 0
train: {report_to: 5} => 4 train.report_to: 5 text list '5' quotes
train: {dataloader_num_workers: -1} => 4 train.dataloader_num_workers: -1 least 0
train: {use_cpu: 'true'} => 4 train.use_cpu: true true false true without quotes
train: {log_level: loud} => 4 train.log_level: loud debug info warning error critical passive
train: {save_total_limit: 0} => 4 train.save_total_limit: 0 least 1
train: {activation_checkpointing_kwargs: 5} => 4 train.activation_checkpointing_kwargs: 5 mapping text '5' quotes
train: {fsdp: full_shard} => 4 train.fsdp: launch accelerate_configs/multi_gpu.yaml
## ALL: evaluation
evaluate: {metric: 5} => 4 evaluate.metric: 5 text '5' quotes
evaluate: {metric: [accuracy, f1]} => 4 evaluate.metric: list text
evaluate: {metric: acuracy} => 4 evaluate.metric: acuracy accuracy evaluate.extra evaluate.mode: min max
evaluate: {mode: maximum} => 4 evaluate.mode: maximum min max max
evaluate: {mode: min} => 4 evaluate.mode: min accuracy higher
evaluate: {metric: accuracy, mode: min} => 4 evaluate.mode: min accuracy higher
evaluate: {extra: accuracy} => 4 evaluate.extra: accuracy list [accuracy]
evaluate: {intervals: true} => 4 evaluate.intervals: true bootstrap none
evaluate: {resamples: 10} => 4 evaluate.resamples: 10 least 100
evaluate: {resamples: 1000000} => 4 evaluate.resamples: 1000000 most 100000
evaluate: {confidence: 95} => 4 evaluate.confidence: 95 below 1
evaluate: {confidence: 0} => 4 evaluate.confidence: 0 above 0
evaluate: {metrics: accuracy} => 4 evaluate.metrics: metric
evaluate: {num_train_epochs: 3} => 4 evaluate.num_train_epochs: train.num_train_epochs
evaluate: {confi: 0.9} => 4 evaluate.confi: confidence
evaluate: {revision: main} => 4 evaluate.revision: data.revision model.revision
evaluate: {fp16: true} => 4 evaluate.fp16: train.precision: fp16
## ALL: several errors at once
seed: x\ntrain:\n  lr: 1\n  compile: maybe => 4 seed: x whole + 6 train.lr: train.learning_rate + 7 train.compile: maybe true false auto
"""

# (overrides, the one that is shown, key, pieces)
OVERRIDES = [
    (["train.learnig_rate=3"], "train.learnig_rate=3", "train.learnig_rate", "learning_rate"),
    (["train.learning_rate=fast"], "train.learning_rate=fast", "train.learning_rate", "fast auto number"),
    (["train.learning_rate"], "train.learning_rate", None, "key.path=value train.learning_rate=1e-4"),
    (["=3"], "=3", None, "key.path=value train.learning_rate=1e-4"),
    (["train..optim=sgd"], "train..optim=sgd", None, "key.path=value train.learning_rate=1e-4"),
    (["seed.a=3"], "seed.a=3", "seed", "mapping whole number"),
    (["lr=0.1"], "lr=0.1", "lr", "train.learning_rate"),
    (["data.source.train=5"], "data.source.train=5", None, "data.source mapping"),
    (["model.name=010"], "model.name=010", "model.name", "010 '010' text 10 number"),
    (["train={a: 1"], "train={a: 1", None, "{"),
    (["train.optim=[sgd"], "train.optim=[sgd", None, "["),
    (["freeze=lorra"], "freeze=lorra", "freeze.strategy", "lorra lora"),
    (["freeze.strategy=head", "freeze.r=4"], "freeze.r=4", "freeze.r", "PEFT lora dora ia3 head"),
    (["model.token=abc"], "model.token", "model.token", "secret hf auth login HF_TOKEN"),
]

# Recipes as mappings hold what no file holds: (section, value, key, pieces).
VALUES = [
    ("seed", {1, 2}, "seed", "set whole number"),
    ("train", {"learning_rate": 1j}, "train.learning_rate", "complex number"),
]


def bad_recipes() -> list[Any]:
    """Give the start and text of each row, and its messages as (what they begin with, pieces)."""
    found, start = [], ""
    for row in BAD.strip("\n").split("\n"):
        if row.startswith("## "):
            start = STARTS[row[3:].partition(":")[0]]
            continue
        text, _, expected = row.rpartition(" => ")
        parts = [re.fullmatch(r"(-|\d+)(?: (\S+?))?: (.*)", part).groups() for part in expected.split(" + ")]
        wanted = [
            (f"r.yaml{'' if line == '-' else f':{line}'}: {f'{key}: ' if key else ''}", pieces)
            for line, key, pieces in parts
        ]
        text = text.replace(r"\n", "\n").replace(r"\t", "\t")
        found.append(pytest.param(start + text + "\n", wanted, id=row.partition(" => ")[0] or "empty"))
    return found


def message_of(tmp_path, monkeypatch, text, overrides=()):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe("r.yaml", overrides)
    return str(caught.value)


def check(line: str, begins: str, pieces: str) -> None:
    """The message begins with place and key, and contains each piece as a word, as often as listed."""
    assert line.startswith(begins)
    said = line.removeprefix(begins)
    pieces = pieces.replace("SECTIONS", SECTIONS).replace("TASKS", TASKS)
    for piece, times in Counter(pieces.split()).items():
        before = r"(?<![\w.-])" if piece[0].isdigit() else r"(?<!\w)" if piece[0].isalnum() else ""
        after = r"(?!\.?\w)" if piece[-1].isdigit() else r"(?!\w)" if piece[-1].isalnum() else ""
        found = re.findall(before + re.escape(piece) + after, said)
        assert len(found) >= times, f"{piece!r} {times}x in {said!r}"


@pytest.mark.parametrize(("text", "wanted"), bad_recipes())
def test_message(tmp_path, monkeypatch, text, wanted):
    lines = message_of(tmp_path, monkeypatch, text).split("\n")
    assert len(lines) == len(wanted)
    for line, (begins, pieces) in zip(lines, wanted, strict=True):
        check(line, begins, pieces)


@pytest.mark.parametrize(("overrides", "shown", "key", "pieces"), OVERRIDES)
def test_message_of_an_override(tmp_path, monkeypatch, overrides, shown, key, pieces):
    message = message_of(tmp_path, monkeypatch, STARTS["ALL"], overrides)
    check(message, f"override {shown}: {f'{key}: ' if key else ''}", pieces)
    assert "\n" not in message and "abc" not in message


@pytest.mark.parametrize(("section", "value", "key", "pieces"), VALUES)
def test_message_of_a_value_that_only_python_has(section, value, key, pieces):
    with pytest.raises(RecipeError) as caught:
        load_recipe(MAPPING | {section: value})
    check(str(caught.value), f"recipe: {key}: ", pieces)


def test_every_message_has_a_bad_recipe(tmp_path, monkeypatch):
    """Every line of `messages.py` that returns a message is reached by some row."""
    reached = set()

    def note(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != messages.__file__:
            return None
        reached.add(frame.f_lineno)
        return note

    rows = [(row.values[0], ()) for row in bad_recipes()]
    before = sys.gettrace()
    sys.settrace(note)
    try:
        for section, value, *_ in VALUES:
            with pytest.raises(RecipeError):
                load_recipe(MAPPING | {section: value})
        for text, overrides in [*rows, *((STARTS["ALL"], overrides) for overrides, *_ in OVERRIDES)]:
            message_of(tmp_path, monkeypatch, text, overrides)
    finally:
        sys.settrace(before)
    returns = [
        node for node in ast.walk(ast.parse(inspect.getsource(messages))) if isinstance(node, ast.Return)
    ]
    assert len(returns) > 30
    silent = [ast.unparse(node) for node in returns if node.lineno not in reached]
    assert not silent, silent


def test_the_common_beginning_is_a_valid_recipe(tmp_path, monkeypatch):
    """Every message is caused by its own row, not by the common beginning."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(STARTS["ALL"], encoding="utf-8")
    assert load_recipe("r.yaml").name == "r"
