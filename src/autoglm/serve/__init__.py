"""The local service: OpenAI's and Ollama's interfaces over the models of this device."""
