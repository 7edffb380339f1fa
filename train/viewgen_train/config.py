"""What a contrastive training is: its losses, views, network and optimiser, resolved from recipes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from viewgen.errors import UsageError, nearest_name
from viewgen.recipes import checked_config, recipe
from viewgen.views.expert import ExpertConfig

__all__ = ["ASSIMILATIONS", "GENERATED", "TrainConfig", "train_config"]

LOSSES = ("simclr", "infonce", "simsiam")
ASSIMILATIONS = ("none", "A1", "A2", "A2-simclr", "A2-full", "A2-simsiam")
GENERATED = ("cache", "wperturb", "viewmaker", "online", "expert")
TRANSFORMS = ("auto", "flip", "weak-crop", "expert")
CHOICES: dict[str, tuple[str, ...]] = {
    "assimilation": ASSIMILATIONS,
    "generated": ("auto", *GENERATED),
    "generated_transform": TRANSFORMS,
    "loss": LOSSES,
    "full_anchors": ("all", "expert"),
    "schedule": ("cosine", "constant"),
    "precision": ("auto", "float32", "bf16"),
    "batchnorm": ("concatenated", "separate"),
}
# fields that the data set's [*.encoder] recipe gives: one network, whatever trains it
NETWORK_FIELDS = ("backbone", "width", "projection_dim")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Settings of `viewgen_train.train`; a data set's recipe (Table 2 of the paper) differs in some.

    Attributes:
        assimilation: how generated views enter the loss. ``"none"``: two views of `generated`, in the loss
            `loss`. ``"A1"``: an expert and a generated view, in `loss`. ``"A2"`` (eq. 3): two expert views in
            InfoNCE, drawn towards the generated ones; ``"A2-simclr"`` (eq. 7), ``"A2-full"`` (eq. 6) and
            ``"A2-simsiam"`` (eq. 8) likewise.
        generated: what makes the generated views. ``"cache"``: drawn from a cache; ``"wperturb"``: noise on
            the code, fresh for each batch; ``"viewmaker"``: a network trained against the encoder;
            ``"online"``: one signed-gradient step of W-search; ``"expert"``: another expert view; ``"auto"``:
            expert where `assimilation` is none, otherwise the cache.
        views_per_step: m, generated views of each image in a step.
        generated_transform: of a generated view. ``"flip"``; ``"weak-crop"``, a flip and a crop of 0.9 to 1
            of the area; ``"expert"``, the whole expert transform; ``"auto"``: flip where `assimilation` is an
            A2, weak-crop otherwise, expert where `generated` is.
        loss: of none and A1, ``"simclr"`` (eq. 1), ``"infonce"`` (eq. 5) or ``"simsiam"``.
        temperature: τ.
        alpha: α, weight of the generated views in A2, A2-simclr and A2-simsiam.
        loss_scale: factor of the loss. Recipes in the manner of SupContrast have τ / 0.07, for which their
            learning rate is made.
        full_anchors: of A2-full, the views that are anchors and negatives: ``"all"`` as in SupCon, or
            ``"expert"``, the 2N expert views of eq. 1.
        backbone, width, projection_dim: see `viewgen.networks.encoder.EncoderConfig`.
        batch_size: N, images of a step, over all workers.
        epochs: passes over the images; what does not fill a batch is left out of a pass.
        learning_rate: highest, of SGD.
        momentum, weight_decay: of SGD.
        schedule: after the warm-up, ``"cosine"`` to 0 or ``"constant"``.
        warm_up_epochs: of a linear rise from 0; at most half of the training.
        gradient_clip: largest norm of the gradient; 0 turns clipping off.
        precision: ``"float32"``, ``"bf16"`` (autocast), or ``"auto"``: bf16 on GPUs that have it.
        channels_last: memory format of images and weights.
        batchnorm: ``"concatenated"``: batch statistics over all views together; ``"separate"``: view by view.
        expert: strength of the expert views.
        sigma: of wperturb, standard deviation of the noise.
        online_step: of online, length of the signed-gradient step.
        epsilon_boundary: of online, ε₁.
        viewmaker_budget: mean absolute change of a pixel, in model units.
        viewmaker_learning_rate: of Viewmaker's Adam.
        knn_every: epochs between measurements of the 5-NN accuracy; 0 for only one, at the end.
        probe_every: epochs between linear probes (one seed of the data set's recipe); 0 for none on the way.
        seed: root of all random numbers.
    """

    assimilation: str = "A2"
    generated: str = "auto"
    views_per_step: int = 1
    generated_transform: str = "auto"
    loss: str = "simclr"
    temperature: float = 0.5
    alpha: float = 0.5
    loss_scale: float = 1.0
    full_anchors: str = "all"
    backbone: str = "resnet18"
    width: int = 64
    projection_dim: int = 128
    batch_size: int = 512
    epochs: int = 1000
    learning_rate: float = 0.5
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    warm_up_epochs: float = 10.0
    gradient_clip: float = 0.0
    precision: str = "auto"
    channels_last: bool = True
    batchnorm: str = "concatenated"
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    sigma: float = 0.2
    online_step: float = 0.1
    epsilon_boundary: float = 0.3
    viewmaker_budget: float = 0.05
    viewmaker_learning_rate: float = 1e-3
    knn_every: int = 10
    probe_every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                near = nearest_name(str(value), known)
                raise UsageError(f"{name} is {value!r}{near}; expected one of {', '.join(known)}")
        positive = ("temperature", "learning_rate", "loss_scale", "viewmaker_budget", "epsilon_boundary")
        for name in (*positive, "viewmaker_learning_rate", "online_step"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name} is {getattr(self, name)}; expected a positive number")
        every = ("knn_every", "probe_every")
        for name in ("alpha", "weight_decay", "warm_up_epochs", "gradient_clip", "sigma", *every):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name} is {getattr(self, name)}; expected a number of at least 0")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum is {self.momentum}; expected a number from 0 to below 1")
        if self.batch_size < 2 or min(self.epochs, self.views_per_step) < 1:
            raise UsageError(
                f"batch_size is {self.batch_size}, epochs {self.epochs}, views_per_step "
                f"{self.views_per_step}; expected at least 2, 1 and 1"
            )
        if self.generated == "auto":
            object.__setattr__(self, "generated", "expert" if self.assimilation == "none" else "cache")
        if self.generated_transform == "auto":
            weak = "flip" if self.assimilation.startswith("A2") else "weak-crop"
            transform = "expert" if self.generated == "expert" else weak
            object.__setattr__(self, "generated_transform", transform)

    @property
    def num_expert(self) -> int:
        """Expert views of each image in a step."""
        return {"none": 0, "A1": 1}.get(self.assimilation, 2)

    @property
    def num_generated(self) -> int:
        """Generated views of each image in a step."""
        return 2 if self.assimilation == "none" else self.views_per_step

    @property
    def simsiam(self) -> bool:
        """Whether the loss is SimSiam's, which needs a predictor."""
        if self.assimilation in ("none", "A1"):
            return self.loss == "simsiam"
        return self.assimilation == "A2-simsiam"

    def to_json(self) -> dict[str, Any]:
        """Return all settings as JSON values."""
        document = dataclasses.asdict(self)
        document["expert"] = self.expert.to_json()
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "TrainConfig":
        """Return the configuration that `to_json` wrote."""
        expert = checked_config(ExpertConfig, "the expert transform", document["expert"])
        values = {name: value for name, value in document.items() if name != "expert"}
        config: TrainConfig = checked_config(cls, "the training", values)
        return dataclasses.replace(config, expert=expert)


def train_config(dataset: str, settings: Mapping[str, Any] | None = None) -> TrainConfig:
    """Return the settings of a training: defaults, the data set's recipe, then `settings`.

    Args:
        dataset: name of the data set.
        settings: field → value; ``"expert.hue"`` and the like reach into the expert transform.

    Raises:
        UsageError: a name is no setting, or a value is impossible.
    """
    given = dict(settings or {})
    network = recipe(dataset, "encoder")
    values = {name: network[name] for name in NETWORK_FIELDS if name in network}
    values["epsilon_boundary"] = recipe(dataset, "wsearch").get("epsilon_boundary", 0.3)
    values |= recipe(dataset, "train")
    if given.get("generated") == "viewmaker":
        values |= recipe(dataset, "train-viewmaker")
    expert = dict(recipe(dataset, "expert"))
    table = given.pop("expert", {})
    if not isinstance(table, Mapping):
        raise UsageError(f'expert is {table!r}; expected an object such as {{"hue": 0.0}}, or expert.hue')
    expert |= table
    for name in [name for name in given if name.startswith("expert.")]:
        expert[name.removeprefix("expert.")] = given.pop(name)
    values["expert"] = checked_config(ExpertConfig, "the expert transform", expert)
    config: TrainConfig = checked_config(TrainConfig, "the training", values | given)
    return config
