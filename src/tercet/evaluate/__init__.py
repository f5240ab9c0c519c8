"""Figures about embeddings and scores: verification, retrieval, their intervals, and a threshold that can be trusted.

Pure functions of arrays; nothing here knows files or models. A score is a similarity: the larger, the more alike.
"""

from __future__ import annotations

from tercet.evaluate.accuracy import cross_validated_decisions, identity_folds
from tercet.evaluate.calibration import Calibration, calibrate
from tercet.evaluate.error_curve import least_impostors
from tercet.evaluate.forgeries import by_kind, forgery_pairs, mean_eer, with_forgeries
from tercet.evaluate.identification import Identification, Searches, enrol_half, fmr_for_fpir, search_identities
from tercet.evaluate.intervals import bootstrap_retrieval, bootstrap_verification
from tercet.evaluate.likelihood import LlrMap, actual_dcf, bayes_threshold, cllr, fit_llr
from tercet.evaluate.normalisation import AsNorm, Normalised
from tercet.evaluate.pairs import Pairs, all_pairs
from tercet.evaluate.rates import ErrorRate, error_rate
from tercet.evaluate.references import DECISIONS, FUSIONS, ReferenceProtocol, against_references
from tercet.evaluate.retrieval import Retrieval, RetrievalPerQuery, retrieval, retrieval_per_query
from tercet.evaluate.similarity import Neighbours, cosine, nearest
from tercet.evaluate.verification import Det, Roc, Verification, det, roc, thinned, verification

__all__ = [
    "verification",
    "Verification",
    "roc",
    "Roc",
    "det",
    "Det",
    "thinned",
    "all_pairs",
    "Pairs",
    "identity_folds",
    "cross_validated_decisions",
    "retrieval",
    "Retrieval",
    "retrieval_per_query",
    "RetrievalPerQuery",
    "nearest",
    "Neighbours",
    "cosine",
    "bootstrap_verification",
    "bootstrap_retrieval",
    "calibrate",
    "Calibration",
    "least_impostors",
    "fit_llr",
    "LlrMap",
    "cllr",
    "actual_dcf",
    "bayes_threshold",
    "search_identities",
    "Searches",
    "Identification",
    "enrol_half",
    "fmr_for_fpir",
    "AsNorm",
    "Normalised",
    "error_rate",
    "ErrorRate",
    "forgery_pairs",
    "with_forgeries",
    "mean_eer",
    "by_kind",
    "against_references",
    "ReferenceProtocol",
    "FUSIONS",
    "DECISIONS",
]
