"""Chat, streaming with usage, tools, embeddings, completions, responses and models with the official openai client."""

import os

from openai import OpenAI

from common import API_KEY, GATEWAY, check, done

CONNECTOR = os.environ["CONNECTOR"]
TEXT = "Water finds its own way through the culvert under the road."

client = OpenAI(base_url=f"{GATEWAY}/v1", api_key=API_KEY, max_retries=0, timeout=30)
model = f"{CONNECTOR}/demo-model"

# models
ids = [entry.id for entry in client.models.list()]
check(model in ids, "the model is listed under its connector", ids)
slashed = f"{CONNECTOR}/meta-llama/Llama-3.1-8B-Instruct"
check(slashed in ids, "a model id with a slash is listed", ids)
check(client.models.retrieve(slashed).id == slashed, "a model id with a slash can be retrieved")

# chat
chat = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}])
check(chat.choices[0].message.content == TEXT, "the whole answer", chat)
check(chat.usage.completion_tokens == 12, "usage", chat.usage)
check(chat.choices[0].finish_reason == "stop", "finish reason", chat)

# a bare id is enough where exactly one target has it
bare = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "täglich 💧"}])
check(bare.choices[0].message.content == "täglich 💧", "a bare id, and text that is not ASCII", bare)

# streaming with usage
stream = client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": "hello"}], stream=True, stream_options={"include_usage": True}
)
text, usage, chunks = "", None, 0
for chunk in stream:
    chunks += 1
    usage = chunk.usage or usage
    if chunk.choices and chunk.choices[0].delta.content:
        text += chunk.choices[0].delta.content
check(text == TEXT, "the streamed answer", text)
check(chunks >= 14, "tokens come one by one", chunks)
check(usage is not None and usage.completion_tokens == 12, "usage at the end of the stream", usage)

# tools, both ways
tools = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city", "days"],
            },
        },
    }
]
question = [{"role": "user", "content": "weather?"}]
called = client.chat.completions.create(model=model, messages=question, tools=tools)
call = called.choices[0].message.tool_calls[0]
check(called.choices[0].finish_reason == "tool_calls", "finish reason of a tool call", called)
check(call.function.name == "weather" and '"days":7' in call.function.arguments.replace(" ", ""), "the tool call", call)
answer = client.chat.completions.create(
    model=model,
    messages=question
    + [called.choices[0].message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "rain"}],
    tools=tools,
)
check("rain" in answer.choices[0].message.content, "the answer after the tool", answer)
arguments = ""
for chunk in client.chat.completions.create(model=model, messages=question, tools=tools, stream=True):
    for piece in chunk.choices[0].delta.tool_calls or []:
        arguments += piece.function.arguments or ""
check('"city"' in arguments and arguments.endswith("}"), "streamed arguments of a tool", arguments)

# embeddings, completions, responses
vectors = client.embeddings.create(model=f"{CONNECTOR}/embed-small", input=["one", "two"])
check(len(vectors.data) == 2 and len(vectors.data[1].embedding) == 8, "two embeddings", vectors)
completion = client.completions.create(model=model, prompt="hello", max_tokens=3)
check(completion.choices[0].text == "Water finds its", "a completion of three tokens", completion)
response = client.responses.create(model=model, input="hello")
check(response.output_text == TEXT, "a response", response)
deltas = [event.delta for event in client.responses.create(model=model, input="hello", stream=True)
          if event.type == "response.output_text.delta"]
check("".join(deltas) == TEXT and len(deltas) == 12, "a streamed response", deltas)
done("openai_basic")
