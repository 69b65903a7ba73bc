"""Linear bounds of elementary functions on boxes: tensors alone, without auto_LiRPA."""
