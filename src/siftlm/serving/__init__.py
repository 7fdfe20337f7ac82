"""HTTP: an OpenAI-compatible server whose model learns for every request, and a page that shows why.

    siftlm serve --memory memory --port 8000

A request is parsed into jobs (`jobs`). One thread that owns the model works them off (`engine`): it selects, tunes many
prompts at once, and continues or scores all that is ready, token by token. `app` turns HTTP into jobs, and events into
HTTP.
"""
