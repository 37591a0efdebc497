"""Answers that are cut in the middle, as the official openai client sees them: errors, never ends."""

import os

import openai
from openai import OpenAI

from common import API_KEY, GATEWAY, check, done

model = f"{os.environ['CONNECTOR']}/demo-model"
client = OpenAI(base_url=f"{GATEWAY}/v1", api_key=API_KEY, max_retries=0, timeout=30)
hello = [{"role": "user", "content": "hello"}]


def streams(fault):
    more = {"fixture": {"fault": fault, "after": 4}}
    yield client.chat.completions.create(model=model, messages=hello, stream=True, extra_body=more)
    yield client.responses.create(model=model, input="hello", stream=True, extra_body=more)


for fault in ("cut", "reset"):
    for stream in streams(fault):
        events = []
        try:
            for event in stream:
                events.append(event)
        except openai.APIError as error:
            check(error.code == "answer_cut", f"why the stream ended ({fault})", (str(error), error.body))
            check(len(events) <= 6, "what came before the cut", events)
        else:
            check(events and events[-1].type == "error", f"a stream with {fault} was taken for a whole one", events)

for fault in ("fault-cut", "fault-reset"):
    try:
        whole = client.chat.completions.create(model=f"{os.environ['CONNECTOR']}/{fault}", messages=hello)
    except openai.APIError:
        continue
    raise SystemExit(f"FAILED: {fault} was answered: {whole}")
done("openai_cut")
