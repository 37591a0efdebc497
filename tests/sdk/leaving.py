"""Clients that leave in the middle of a streamed answer: two openai streams and one of anthropic."""

import os

import anthropic
from openai import OpenAI

from common import API_KEY, GATEWAY, check, done

model = f"{os.environ['CONNECTOR']}/demo-model"
hello = [{"role": "user", "content": "hello"}]
endless = {"fixture": {"tokens": 10_000, "interval_ms": 20}}
openai = OpenAI(base_url=f"{GATEWAY}/v1", api_key=API_KEY, max_retries=0, timeout=30)

chat = openai.chat.completions.create(model=model, messages=hello, stream=True, extra_body=endless)
check(next(iter(chat)).choices[0].delta.role == "assistant", "the first chunk")
chat.close()

response = openai.responses.create(model=model, input="hello", stream=True, extra_body=endless)
check(next(iter(response)).type == "response.created", "the first event")
response.close()

client = anthropic.Anthropic(base_url=GATEWAY, api_key=API_KEY, max_retries=0, timeout=30)
with client.messages.stream(model=model, max_tokens=12, messages=hello, extra_body=endless) as stream:
    check(next(iter(stream.text_stream)) == "Water", "the first word")
done("leaving")
