"""Rollout servers as engines: vLLM, SGLang, llama.cpp, TGI and whatever else speaks OpenAI's API, over HTTP."""
