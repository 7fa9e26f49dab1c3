"""Imports what a run imports, once, before runs are forked; nothing here computes."""

import importlib

NAMES = [
    "accelerate.state",
    "datasets",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "pandas",
    "peft",
    "PIL.Image",
    "pyarrow.parquet",
    "scipy.stats",
    "sklearn.linear_model",
    "sklearn.metrics",
    "torch.distributed",
    "torch.utils.data",
    "torchvision.transforms.v2",
    "transformers.models.bert.modeling_bert",
    "transformers.models.patchtst.modeling_patchtst",
    "transformers.models.resnet.modeling_resnet",
    "transformers.models.vit.modeling_vit",
    "transformers.trainer",
    "hf_ft.report.hub",
    "hf_ft.report.report",
    "hf_ft.report.report_content",
    "hf_ft.run",
    "hf_ft.train.assemble",
    "hf_ft.train.preflight",
    "hf_ft.train.signals",
    "hf_ft.verification.items",
]

for name in NAMES:
    importlib.import_module(name)
