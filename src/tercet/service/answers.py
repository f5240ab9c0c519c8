"""What the service answers: the keys of the commands' `--json`, the model's fingerprint and the request's id."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "About",
    "Enrolled",
    "Forgotten",
    "Health",
    "Identified",
    "Listed",
    "Problem",
    "Searched",
    "Verified",
]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    request_id: str = Field(description="Names this request in the service's log.")


class Problem(_Answer):
    """Why nothing was done."""

    error: str = Field(description="One line.")


class CalibrationShown(BaseModel):
    """How the threshold was chosen and what it costs."""

    model_config = ConfigDict(extra="forbid")

    id: str
    target_fmr: float
    achieved_fmr: float
    achieved_fnmr: float
    impostor_pairs: int
    impostors: Any = None


class Verified(_Answer):
    """Whether two samples, or a sample and a claimed identity, are the same."""

    decision: Literal["match", "no-match", "undecided"]
    score: float | None = Field(description="Cosine similarity, -1 to 1; null where a sample holds too little.")
    threshold: float | None = Field(description="Scores from here on match.")
    calibration: CalibrationShown | None
    llr: float | None = Field(description="Log-likelihood ratio of the score, natural logarithm.")
    model: str
    reason: str | None = Field(description="Why it is undecided.")
    claim: str | None = None
    references: int | None = Field(None, description="Templates of the claimed identity.")


class Candidate(BaseModel):
    """The best template of one identity."""

    model_config = ConfigDict(extra="forbid")

    identity: str
    score: float
    path: str = Field(description="The enrolled file's name, without its folder.")
    template: str = Field(description="Names the stored picture: GET /v1/picture/TEMPLATE.")


class Identified(_Answer):
    """Who a sample shows, or nobody."""

    decision: Literal["identified", "unknown", "undecided"]
    reason: str
    identity: str | None
    score: float | None
    margin_to_runner_up: float | None
    candidates: list[Candidate]
    threshold: float | None
    runner_up: dict[str, Any] | None
    calibration: CalibrationShown | None
    model: str
    comparisons: int
    expected_fpir: float | None
    expected_fpir_ci95: list[float] | None


class Searched(_Answer):
    """The enrolled samples most like one, best first."""

    results: list[Candidate]
    gallery: int = Field(description="Templates that were searched.")
    model: str


class DoubtShown(BaseModel):
    """What speaks against a file."""

    model_config = ConfigDict(extra="forbid")

    identity: str
    path: str
    reason: str


class Enrolled(_Answer):
    """What was enrolled, and is on the disk."""

    model: str
    enrolled: int
    identities: int
    replaced: int
    refused: list[DoubtShown]
    warnings: list[DoubtShown]
    calibration: str | None


class RemovedShown(BaseModel):
    """What was removed."""

    model_config = ConfigDict(extra="forbid")

    identities: list[str]
    templates: int
    pictures: int


class Forgotten(_Answer):
    """What was removed; `erased`: its bytes have left the disk, too."""

    identity: str
    removed: RemovedShown
    erased: bool
    model: str


class PersonShown(BaseModel):
    """One enrolled identity."""

    model_config = ConfigDict(extra="forbid")

    identity: str
    templates: int
    tags: list[str]
    enrolled: str
    expires: str | None


class Listed(_Answer):
    """Who is enrolled, by name."""

    identities: list[PersonShown]
    total: int
    model: str


class LimitsShown(BaseModel):
    """What one request may bring."""

    model_config = ConfigDict(extra="forbid")

    file_bytes: int
    files: int
    pixels: int
    seconds: float


class About(_Answer):
    """What is served."""

    model: str
    task: str
    kind: Literal["picture", "sound"]
    suffixes: list[str]
    calibration: CalibrationShown | None
    threshold: float | None
    limits: LimitsShown


class Health(_Answer):
    """Whether the service works."""

    status: Literal["ok"]
    model: str
