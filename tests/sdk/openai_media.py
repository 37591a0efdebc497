"""Sound, images, moderations and rerank with the official openai client: forms up, binary answers down."""

import base64
import hashlib
import json
import os

from openai import OpenAI

from common import API_KEY, GATEWAY, check, done

CONNECTOR = os.environ["CONNECTOR"]
client = OpenAI(base_url=f"{GATEWAY}/v1", api_key=API_KEY, max_retries=0, timeout=60)
voice, image = f"{CONNECTOR}/voice", f"{CONNECTOR}/image-small"
# Larger than what the gateway holds of a form, and with bytes that look like the end of a part.
sound = (b"\r\n--\r\n" + bytes(range(256))) * 10_000
digest = hashlib.sha256(sound).hexdigest()
spoken = bytes(index % 251 for index in range(100 * 4096))

# speech, whole and streamed
check(client.audio.speech.create(model=voice, voice="alloy", input="x" * 100).content == spoken, "speech, byte for byte")
with client.audio.speech.with_streaming_response.create(model=voice, voice="alloy", input="x" * 100) as response:
    check(response.headers["content-type"] == "audio/mpeg", "the type of speech", dict(response.headers))
    check(b"".join(response.iter_bytes()) == spoken, "streamed speech, byte for byte")

# transcriptions and translations
wanted = f"speech.wav {len(sound)} {digest}"
text = client.audio.transcriptions.create(model=voice, file=("speech.wav", sound, "audio/wav"))
check(text.text == wanted, "a transcription of what was sent", text)
plain = client.audio.transcriptions.create(model=voice, file=("speech.wav", sound), response_format="text")
check(plain.strip() == wanted, "a transcription as text", plain)
verbose = client.audio.transcriptions.create(model=voice, file=("speech.wav", sound), response_format="verbose_json")
check(verbose.duration == 1.5 and verbose.text == wanted, "a verbose transcription", verbose)
events = list(client.audio.transcriptions.create(model=voice, file=("speech.wav", sound), stream=True))
check([event.type for event in events] == ["transcript.text.delta"] * 3 + ["transcript.text.done"], "a streamed one", events)
check(events[-1].text == wanted, "the end of a streamed transcription", events[-1])
check(client.audio.translations.create(model=voice, file=("speech.wav", sound)).text == wanted, "a translation")


# images
def shown(answer, index=0):
    return json.loads(base64.b64decode(answer.data[index].b64_json))


made = client.images.generate(model=image, prompt="a culvert", n=2)
check(len(made.data) == 2 and shown(made) == "a culvert", "two images", made)
edited = client.images.edit(model=image, image=("a.png", sound, "image/png"), prompt="more water")
check(shown(edited)["sha256"] == digest and shown(edited)["file"] == "a.png", "an edited image", shown(edited))
both = client.images.edit(model=image, image=[("a.png", sound, "image/png"), ("b.png", b"", "image/png")], prompt="both")
check([one["bytes"] for one in shown(both)] == [len(sound), 0], "two images in one form", shown(both))
varied = client.images.create_variation(model=image, image=("a.png", sound, "image/png"), n=3)
check(len(varied.data) == 3 and shown(varied, 2)["sha256"] == digest, "three variations", varied)

# moderations and rerank
judged = client.moderations.create(model=f"{CONNECTOR}/demo-model", input=["violence", "a meadow"])
check([one.flagged for one in judged.results] == [True, False], "moderations", judged)
ranked = client.post(
    "/rerank",
    cast_to=object,
    body={"model": f"{CONNECTOR}/demo-model", "query": "q", "documents": ["short", "the longest of all", "middling"]},
)
check([one["index"] for one in ranked["results"]] == [1, 2, 0], "rerank", ranked)
check(ranked["model"] == "demo-model", "the answer keeps the backend's name", ranked)
done("openai_media")
