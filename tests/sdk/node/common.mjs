// What every script of this folder shares: the endpoint, and assertions that say what they saw.

export const GATEWAY = process.env.GATEWAY;
export const API_KEY = process.env.API_KEY;
export const CONNECTOR = process.env.CONNECTOR;
export const MCP_URL = new URL(process.env.MCP_URL ?? `${GATEWAY}/mcp/${CONNECTOR}/${process.env.SERVICE}`);
export const TEXT = 'Water finds its own way through the culvert under the road.';

const PATIENCE_MS = 20_000;

/** Fails with a sentence and the value that was seen. */
export function check(condition, what, seen) {
  if (!condition) {
    console.error(`FAILED: ${what}; saw ${JSON.stringify(seen)}`);
    process.exit(1);
  }
}

/** Waits for something that an event brings, for as long as anything here may take. */
export function within(what, promise) {
  const late = new Promise((_, reject) => {
    setTimeout(() => reject(new Error(`FAILED: ${what}: not in time`)), PATIENCE_MS).unref();
  });
  return Promise.race([promise, late]);
}

/** A promise and what resolves it. */
export function later() {
  let tell;
  const told = new Promise((resolve) => {
    tell = resolve;
  });
  return { told, tell };
}

export function done(name) {
  console.log(`ok ${name}`);
  process.exit(0);
}
