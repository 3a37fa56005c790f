"""Networks: the backbones, their verified weights, the cut through them and the heads on top."""
