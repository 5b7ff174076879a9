"""Model files: safetensors, architectures, and the bundle autoglm writes and opens."""
