"""Scores of benchmarks, from predictions and truths as plain lists: as scikit-learn and SciPy define them."""

import math
from collections.abc import Sequence

import numpy as np


def accuracy(found: Sequence[int], truth: Sequence[int]) -> float:
    """Share that is right."""
    return float(np.mean(np.asarray(found) == np.asarray(truth)))


def f1(found: Sequence[int], truth: Sequence[int], positive: int = 1) -> float:
    """2·TP / (2·TP + FP + FN) of one class; 0 where it neither is nor is found."""
    found_, truth_ = np.asarray(found) == positive, np.asarray(truth) == positive
    right, all_ = int((found_ & truth_).sum()), int(found_.sum() + truth_.sum())
    return 2 * right / all_ if all_ else 0.0


def matthews(found: Sequence[int], truth: Sequence[int]) -> float:
    """Matthews' correlation of any number of classes (Gorodkin 2004): (c·s − Σ pₖtₖ) / √((s² − Σ pₖ²)(s² − Σ tₖ²)), c
    right out of s, pₖ found and tₖ true of class k; 0 where all are found, or are, of one class."""
    found_, truth_ = np.asarray(found), np.asarray(truth)
    classes = np.union1d(found_, truth_)
    p = np.array([(found_ == k).sum() for k in classes], np.float64)
    t = np.array([(truth_ == k).sum() for k in classes], np.float64)
    right, all_ = float((found_ == truth_).sum()), float(len(truth_))
    below = (all_**2 - p @ p) * (all_**2 - t @ t)
    return float(right * all_ - p @ t) / math.sqrt(below) if below else 0.0


def pearson(found: Sequence[float], truth: Sequence[float]) -> float:
    """Correlation; 0 where either is constant (SciPy: not a number)."""
    x, y = (np.asarray(v, np.float64) - np.mean(v) for v in (found, truth))
    below = math.sqrt((x @ x) * (y @ y))
    return float(x @ y) / below if below else 0.0


def spearman(found: Sequence[float], truth: Sequence[float]) -> float:
    """Correlation of ranks; equal values share the mean of theirs."""
    return pearson(_ranks(found), _ranks(truth))


def _ranks(values: Sequence[float]) -> list[float]:
    _, places, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return list((last - (counts - 1) / 2)[places])


def likeliest(log_likelihoods: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]) -> list[int]:
    """Which answer of each question has the largest log-likelihood for its length."""
    return [
        int(np.argmax(np.asarray(sums) / np.asarray(sizes)))
        for sums, sizes in zip(log_likelihoods, lengths, strict=True)
    ]
