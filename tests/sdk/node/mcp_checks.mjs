// What both official MCP clients for Node must be able to do, in either era.

import { API_KEY, check } from './common.mjs';

export const OPTIONS = { requestInit: { headers: { 'x-culvert-key': API_KEY } } };
export const NOTES = 'fixture://notes/culvert';

/** The client's own answers to what a server may ask it back. */
export const SAMPLE = { model: 'client', role: 'assistant', content: { type: 'text', text: 'Paris' } };
export const FORM = { action: 'accept', content: { username: 'ada', email: 'ada@example.com', name: 'Ada' } };

export async function basics(client) {
  const names = (await client.listTools()).tools.map((tool) => tool.name);
  check(['add', 'echo', 'headers', 'slow'].every((name) => names.includes(name)), 'the tools', names);
  const echoed = await client.callTool({ name: 'echo', arguments: { text: 'täglich 💧' } });
  check(echoed.content[0].text === 'täglich 💧', 'echo', echoed);
  const seen = await client.callTool({ name: 'headers', arguments: {} });
  check(!seen.content[0].text.includes(API_KEY), "the gateway's key never reaches the server", seen);
  const read = await client.readResource({ uri: NOTES });
  check(read.contents[0].text.includes('under a road'), 'the resource', read);
  const prompt = await client.getPrompt({ name: 'greet', arguments: { name: 'Ada' } });
  check(prompt.messages[0].content.text.includes('Ada'), 'the prompt', prompt);
  const completed = await client.complete({
    ref: { type: 'ref/prompt', name: 'greet' }, argument: { name: 'name', value: 'cul' },
  });
  check(completed.completion.values[0] === 'culvert', 'a completion', completed);
  const failed = await client.callTool({ name: 'test_error_handling', arguments: {} });
  check(failed.isError, 'a tool that fails', failed);
}

/** `call` calls a tool with options; the two clients take them at different places. */
export async function progress(call) {
  const steps = [];
  const onprogress = (step) => steps.push(step.progress);
  const slow = await call({ name: 'slow', arguments: { steps: 4, step_ms: 50 } }, { onprogress });
  check(slow.content[0].text === 'done after 4 steps', 'a slow tool', slow);
  check(steps.join() === '1,2,3,4', 'progress in order', steps);
}

export async function cancels(call) {
  const leaving = new AbortController();
  const onprogress = () => leaving.abort('enough');
  const options = { signal: leaving.signal, onprogress };
  const cancelled = await call({ name: 'slow', arguments: { steps: 10_000, step_ms: 20 } }, options)
    .catch((error) => error);
  check(cancelled instanceof Error || cancelled === 'enough', 'a cancelled call', cancelled);
}
