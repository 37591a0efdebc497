// A stream that is cut in the middle of a call: the official client 1.x comes back for the rest, and nothing is done twice.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

import { MCP_URL, check, done } from './common.mjs';
import { OPTIONS } from './mcp_checks.mjs';

const client = new Client({ name: 'test', version: '1' });
await client.connect(new StreamableHTTPClientTransport(MCP_URL, OPTIONS));
const steps = [];
const slow = await client.callTool({ name: 'slow', arguments: { steps: 6, step_ms: 100 } }, undefined, {
  onprogress: (step) => steps.push(step.progress),
});
check(slow.content[0].text === 'done after 6 steps', 'the answer after the cut', slow);
check(steps.join() === '1,2,3,4,5,6', 'all of the progress, once', steps);
await client.close();
done('mcp_resume');
