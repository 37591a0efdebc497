"""With the agent gone the client sees 503 agent_unavailable and is told when to come back."""

import os

import openai
from openai import OpenAI

from common import API_KEY, GATEWAY, check, done

client = OpenAI(base_url=f"{GATEWAY}/v1", api_key=API_KEY, max_retries=0, timeout=30)
try:
    client.chat.completions.create(
        model=f"{os.environ['CONNECTOR']}/demo-model", messages=[{"role": "user", "content": "hello"}]
    )
except openai.InternalServerError as error:
    check(error.status_code == 503, "503", error.status_code)
    check(error.code == "agent_unavailable", "agent_unavailable", error.body)
    check(int(error.response.headers["retry-after"]) > 0, "retry-after", dict(error.response.headers))
else:
    raise SystemExit("FAILED: a call without an agent was answered")
done("openai_gone")
