"""Linear probes: what a ridge regression, fitted on the first `train` rows of features, tells of the others."""

import numpy as np


def linear_scores(features, targets, train=200):
    x = (features - features[:train].mean(0)) / (features[:train].std(0) + 1e-9)
    x = np.c_[x, np.ones(len(x))]
    return x[train:] @ np.linalg.solve(x[:train].T @ x[:train] + 20 * np.eye(x.shape[1]), x[:train].T @ targets[:train])


def accuracy(features, labels, names, train=200):
    targets = np.array([[label == name for name in names] for label in labels], float)
    return (linear_scores(features, targets, train).argmax(1) == targets[train:].argmax(1)).mean()


def areas_under_curves(features, styles, instruments, train=200):
    """For each instrument how well it is told who plays it."""
    plays = np.array([[instrument in style.instruments for instrument in instruments] for style in styles])
    scores, truth = linear_scores(features, plays.astype(float), train), plays[train:]
    return np.array([(s[t][:, None] > s[~t][None]).mean() for s, t in zip(scores.T, truth.T, strict=True)])
