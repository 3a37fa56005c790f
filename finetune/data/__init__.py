"""Photos: data sets, class folders, splits, decoding, augmentation. Nothing imports TensorFlow."""
