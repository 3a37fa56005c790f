"""Photos: named data sets, class folders, splits, decoding and augmentation. Nothing here imports TensorFlow."""
