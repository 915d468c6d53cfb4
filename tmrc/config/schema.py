"""Every configuration key: its type, default, bounds and meaning, in one place.

The dataclasses mirror the YAML file section by section. `key` carries what validation and the documentation need.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Rule:
    """What a value must satisfy beyond its type. `above` is exclusive, the others inclusive."""

    help: str
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    registry: str | None = None
    path: bool = False


def key(default: Any, help: str, **rule: Any) -> Any:
    """A dataclass field with its meaning and bounds (see `Rule`)."""
    metadata = {"rule": Rule(help, **rule)}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class DatasetsConfig:
    """The tokenized data, as tatm or `tmrc data prepare` wrote it."""

    name: str | None = key(None, "name for people and reports; without `path`, the name in tatm's metadata store")
    path: str | None = key(None, "directory that holds metadata.yaml and the shards, or the metadata file", path=True)
    tokenizer_used: str | None = key(None, "tokenizer of the data; must be the one in its metadata")
    val_split_size: float | None = key(
        None,
        "held-out share (below 1) or number (1 and above) of sequences, the last ones, as tatm's val_split_size; "
        "null holds out what one validation pass reads, val_batches x batch_size, at most a tenth; 0 nothing",
        at_least=0,
    )
    eos_token: int = key(1, "token id that ends a document", at_least=0)
    allow_mismatch: bool = key(False, "train although tokenizer or vocabulary differ from the data's metadata")


@dataclass(frozen=True)
class ModelConfig:
    """The network and how its attention is computed."""

    name: str = key("gpt", "model architecture", registry="model")
    n_head: int = key(4, "attention heads; must divide d_model", at_least=1)
    d_model: int = key(512, "width of the residual stream", at_least=1)
    n_layer: int = key(8, "number of transformer blocks", at_least=1)
    dropout_p: float = key(0.0, "dropout on embeddings, residual branches and MLP", at_least=0, below=1)
    context_length: int = key(512, "sequence length in tokens", at_least=2)
    autocast_precision: Precision = key("bfloat16", "precision of matrix products; float16 adds a loss scaler")
    flash: bool = key(False, "FlashAttention through SDPA (causal mask only)")
    flex: bool = key(True, "FlexAttention (any mask); on a CPU the same mask runs through SDPA")
    mlp_scale_factor: int = key(4, "hidden width of the MLP as a multiple of d_model", at_least=1)
    mlp_bias: bool = key(True, "bias in the MLP")
    attn_bias: bool = key(False, "bias in the query, key and value projection")
    proj_bias: bool = key(True, "bias in the attention's output projection")
    ln_bias: bool = key(True, "bias in the layer norms")
    cls_head_bias: bool = key(True, "bias in the output layer over the vocabulary")
    activation: str = key("relu", "activation of the MLP", registry="activation")
    mask: str = key("causal_document", "attention mask", registry="mask")
    compile_flex: bool = key(True, "compile FlexAttention; false runs it unfused, for debugging")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its hyperparameters."""

    name: str = key("AdamW", "optimizer", registry="optimizer")
    lr: float = key(1e-4, "peak learning rate", above=0)
    weight_decay: float = key(0.01, "decoupled weight decay", at_least=0)
    betas: tuple[float, float] = key((0.9, 0.999), "decay of the first and second moment", at_least=0, below=1)
    eps: float = key(1e-8, "added to the denominator", above=0)
    precision: Literal["float32", "bfloat16"] = key("float32", "precision of the optimizer state")
    decay_matrices_only: bool = key(False, "leave biases and norms without weight decay")


@dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer whose vocabulary the model predicts."""

    name: str | None = key(None, "tokenizer; when given with datasets.tokenizer_used, the two must agree")
    vocab_size: int = key(32128, "rows of the embedding and of the output layer; at least the data's", at_least=2)


@dataclass(frozen=True)
class TrainingConfig:
    """Length, batches, schedule, checkpoints and where results go."""

    epochs: int = key(
        1, "passes over the data; training ends at epochs or train_steps, whichever comes first", at_least=1
    )
    train_steps: int = key(100_000, "optimizer steps", at_least=1)
    batch_size: int = key(256, "sequences per optimizer step over all GPUs and accumulation steps", at_least=1)
    micro_batch_size: int | Literal["auto"] = key(
        "auto", "sequences per forward pass on one GPU; auto finds what fits into its memory", at_least=1
    )
    log_interval: int = key(20, "steps between rows of metrics", at_least=1)
    val_interval: int = key(1000, "steps between validations; 0 validates never", at_least=0)
    val_batches: int = key(16, "batches of batch_size read by one validation pass", at_least=1)
    shuffle: bool = key(True, "a fresh order each epoch, from seed and epoch alone; false is file order")
    seed: int = key(0, "seed of initialisation, order and dropout", at_least=0, below=2**63)
    scheduler: str = key("constant", "learning-rate schedule", registry="scheduler")
    warmup_steps: int = key(0, "steps of linear warm-up, before any schedule", at_least=0)
    min_lr_ratio: float = key(
        0.0, "lowest learning rate of a decaying schedule, as a share of lr", at_least=0, at_most=1
    )
    decay_ratio: float = key(0.2, "share of the steps in which `wsd` decays at the end", above=0, at_most=1)
    grad_clip: float = key(0.0, "largest global gradient norm; 0 does not clip", at_least=0)
    save_model: bool = key(True, "write checkpoints")
    save_every: float = key(3600.0, "seconds between checkpoints", above=0)
    keep_checkpoints: int = key(2, "how many checkpoints to keep", at_least=2)
    hang_timeout: float = key(
        600.0,
        "seconds without a sign of life from any process after which the attempt is ended; 0 never ends it",
        at_least=0,
        at_most=7 * 24 * 3600,
    )
    artifacts_path: str = key("artifacts", "directory under which each run has its own", path=True)
    use_oracle: bool = key(
        False, "debugging: a perfect predictor in place of the model; stops at the first flaw in the data"
    )
    device: Literal["auto", "cuda", "cpu"] = key("auto", "where to train; auto takes GPUs when there are any")
    compile: bool | Literal["auto"] = key("auto", "torch.compile the whole step; auto compiles on GPUs")
    exact_reduction: bool = key(
        False,
        "sum gradients in an order that the number of processes does not change, so that on CPUs a run has the same "
        "bits with every number of them; each process then computes with one CPU thread",
    )
    deterministic: bool = key(False, "refuse kernels whose result can differ from run to run (slower on GPUs)")


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases. metrics.jsonl is written whatever is set here."""

    name: str = key("tmrc", "project")
    mode: Literal["auto", "online", "offline", "disabled"] = key(
        "auto", "auto is online where there is a login, else offline"
    )
    entity: str | None = key(None, "team or user that the run belongs to; without one, whoever is logged in")
    group: str | None = key(None, "group of the run")
    job_type: str | None = key("train", "kind of the run within its group")
    tags: list[str] = key([], "tags of the run")


@dataclass(frozen=True)
class HydraConfig:
    """How Hydra composes a file that has a `defaults:` list."""

    version_base: str | None = key("1.1", "compatibility level of Hydra's composition")


@dataclass(frozen=True)
class LaunchConfig:
    """What the job asks for. The same names stand in site templates and on the command line."""

    template: str | None = key(None, "site template: a name (see slurm_templates) or a file")
    name: str | None = key(None, "name of the job; the run id begins with it")
    partition: str | None = key(None, "Slurm partition")
    account: str | None = key(None, "Slurm account")
    qos: str | None = key(None, "Slurm quality of service")
    nodes: int = key(1, "number of nodes", at_least=1)
    gpus_per_node: int | None = key(
        None, "GPUs on each node; null takes 1 on Slurm and all there are with --local", at_least=0
    )
    processes_per_node: int | None = key(
        None, "training processes on each node; null is one a GPU, or one without GPUs", at_least=1
    )
    cpus_per_task: int | None = key(None, "CPU cores on each node", at_least=1)
    mem: str | None = key(None, "memory on each node, such as 360G")
    time: str | None = key(None, "time limit as Slurm writes it, such as 2-00:00:00 or 30 (minutes)")
    constraint: str | None = key(None, "node features")
    exclude: str | None = key(None, "nodes to keep off")
    warning: int | Literal["auto"] = key(
        "auto",
        "seconds before the time limit at which the job saves and goes back to the queue; auto is 120, "
        "or as long as two checkpoints take where that is more",
        at_least=1,
        at_most=65_535,
    )
    python: str | None = key(
        None,
        "words that start Python on the nodes, such as `apptainer exec --nv image.sif python`; "
        "null is the Python that submitted",
    )
    setup: list[str] = key([], "lines of shell run before training starts, such as module loads")
    sbatch: dict[str, str] = key({}, "further sbatch parameters, by their long names")


@dataclass(frozen=True)
class Config:
    """A whole configuration file."""

    datasets: DatasetsConfig = field(default_factory=DatasetsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    wandb_log: WandbConfig = field(default_factory=WandbConfig)
    HydraConf: HydraConfig = field(default_factory=HydraConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
