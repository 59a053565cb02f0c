"""Export of runs to ONNX, TorchScript, timm and the Hugging Face hub."""
