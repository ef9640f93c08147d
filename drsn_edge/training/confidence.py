"""The temperature of a trained network, fitted on its validation windows."""

from __future__ import annotations

import numpy as np
import torch

from drsn_edge.model.network import Network
from drsn_edge.parity.temperature import Temperature, fit_temperature
from drsn_edge.signals.windows import Windows
from drsn_edge.training.batches import validation_batches
from drsn_edge.training.options import FitOptions


def temperature_of(network: Network, validation: Windows, options: FitOptions) -> Temperature:
    """Fit the temperature on the clean windows and noise draws that chose the epoch.

    Of the trained range of noise, as the confidences will be used there; never of the test part.

    Raises:
        InputError: No windows, or logits that are not finite.
    """
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    logits, true = [], []
    batches = validation_batches(
        validation, options.noise, draws=options.validation_draws, batch=2 * options.batch, seed=options.seed
    )
    with torch.inference_mode():
        for x, y in batches:
            logits.append(network(torch.from_numpy(x).to(device)).cpu().numpy())
            true.append(y)
    network.train(training)
    return fit_temperature(np.concatenate(logits), np.concatenate(true))
