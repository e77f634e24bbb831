"""Ratings in NumPy float64, dense and naive: NaN where nothing is rated."""

import numpy as np


def biases(rated, user_l2, item_l2):
    """Mean, users' and items' biases of dense ratings [U, I], by the normal equations; Koren, KDD 2008, section 2.1."""
    num_users, num_items = rated.shape
    users, items = np.nonzero(~np.isnan(rated))
    mean = rated[users, items].mean()
    design = np.zeros((len(users), num_users + num_items))
    design[np.arange(len(users)), users] = 1
    design[np.arange(len(users)), num_users + items] = 1
    l2 = np.diag(np.repeat([float(user_l2), float(item_l2)], [num_users, num_items]))
    found = np.linalg.solve(design.T @ design + l2, design.T @ (rated[users, items] - mean))
    return mean, found[:num_users], found[num_users:]


def residuals(rated, user_l2, item_l2):
    """What the biases predict of every rating [U, I], and what they leave of those that are there, 0 elsewhere."""
    mean, by_user, by_item = biases(rated, user_l2, item_l2)
    expected = mean + by_user[:, None] + by_item[None]
    return expected, np.nan_to_num(rated - expected)


def errors(predicted, held_out, low, high):
    """RMSE and MAE of predictions [U, I], clipped, at the ratings that are held out [U, I]."""
    squares, sizes = [], []
    for user, item in np.argwhere(~np.isnan(held_out)):
        error = min(max(float(predicted[user, item]), low), high) - float(held_out[user, item])
        squares.append(error**2)
        sizes.append(abs(error))
    return np.mean(squares) ** 0.5, np.mean(sizes)
