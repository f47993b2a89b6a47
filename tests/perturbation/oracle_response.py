"""Dense second derivatives of Eq. 2 and the response that Theorem 4.1 makes of them."""

import numpy as np


def hessian_blocks(model, weights, features, labels):
    """f_WW, f_HH and f_WH of Eq. 2 for W (K, d) and H (N, d), both flattened row by row."""
    W, H = np.asarray(weights), np.asarray(features)
    (K, d), N = W.shape, len(H)
    residual = H @ W.T - np.eye(K)[labels]
    f_WW = np.kron(np.eye(K), H.T @ H / N + model.lambda_W / K * np.eye(d))
    f_HH = np.kron(np.eye(N), W.T @ W + (model.lambda_H + model.beta) * np.eye(d)) / N
    f_WH = np.einsum("kb,ia->kaib", W, H) + np.einsum("ik,ab->kaib", residual, np.eye(d))
    return f_WW, f_HH, f_WH.reshape(K * d, N * d) / N


def dense_response(model, weights, features, labels):
    """(F, dW/dH0) of Theorem 4.1 at a minimizer (W, H), dense: (Nd, Nd) and (Kd, Nd)."""
    f_WW, f_HH, f_WH = hessian_blocks(model, weights, features, labels)
    eliminate = np.linalg.solve(f_WW, f_WH)
    F = model.beta / len(features) * np.linalg.inv(f_HH - f_WH.T @ eliminate)
    return F, -eliminate @ F


def dense_large_beta(model, weights, features, labels):
    """Eq. 5 letter by letter: Kronecker products, and vec stacks columns.

    E has the columns vec(e_i e_k^T (WH - Y)).
    """
    W, H = np.asarray(weights), np.asarray(features).T
    (K, d), N = W.shape, H.shape[1]
    residual = W @ H - np.eye(K)[:, labels]
    E = np.stack(
        [np.outer(e_i, row).ravel(order="F") for e_i in np.eye(d) for row in residual], axis=1
    )
    right = E.T + np.kron(H, W)
    middle = np.kron(H @ H.T, np.eye(K)) + N / K * model.lambda_W * np.eye(K * d)
    Z = right.T @ np.linalg.solve(middle, right)
    return (1 - model.lambda_H / model.beta) * np.eye(N * d) - (
        np.kron(np.eye(N), W.T @ W) - Z
    ) / model.beta


def relative_error(a, b) -> float:
    """Largest difference of two arrays, relative to the largest entry of the second."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    return np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-300)
