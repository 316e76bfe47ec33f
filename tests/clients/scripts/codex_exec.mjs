// `codex exec` with a provider of its own in a home of its own: it streams, resends its history, and runs commands.

import { spawn } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { check, done, pause, killAPod, SLOW, step, URL } from "./session.mjs";

const here = import.meta.dirname;
const home = path.join(here, "home");
const work = path.join(here, "work");
for (const folder of [home, work]) {
  fs.rmSync(folder, { recursive: true, force: true });
  fs.mkdirSync(folder);
}
fs.writeFileSync(
  path.join(home, "config.toml"),
  `model_provider = "agentrt"
[analytics]
enabled = false
[model_providers.agentrt]
name = "agentrt"
base_url = "${URL}/v1"
env_key = "AGENTRT_KEY"
wire_api = "responses"
request_max_retries = 4
stream_max_retries = 5
`,
);

/** Run codex; its answer, and the events it tells. */
async function codex(model, ...rest) {
  const flags = ["exec", "--json", "--skip-git-repo-check", "--model", model];
  const options = { cwd: work, env: { ...process.env, CODEX_HOME: home, AGENTRT_KEY: "x" }, stdio: ["ignore", "pipe", "pipe"] };
  const child = spawn(path.join(here, "node_modules", ".bin", "codex"), [...flags, ...rest], options);
  let told = "";
  child.stdout.on("data", (data) => (told += data));
  child.stderr.on("data", (data) => process.stderr.write(data));
  const code = await new Promise((ended) => child.on("close", ended));
  process.stderr.write(told);
  check(code === 0, code, told);
  const events = told.trim().split("\n").map((line) => JSON.parse(line));
  const items = events.filter((event) => event.type === "item.completed").map((event) => event.item);
  return { events, items, text: items.filter((item) => item.type === "agent_message").at(-1)?.text ?? "" };
}

await step("server tools", async () => {
  const { text } = await codex("support", "look up order A1");
  check(text.startsWith("Done, get_order says:"), text);
});
await step("streaming", async () => {
  const { text } = await codex("support", "count to 20");
  check(text.trim().split(/\s+/).length === 20, text);
});
await step("conversation", async () => {
  const { events } = await codex("support", "my name is Ada");
  const { text } = await codex("support", "resume", events[0].thread_id, "what is my name");
  check(text === "Your name is Ada.", text);
});
await step("client tools", async () => {
  const { items, text } = await codex("shell", "--sandbox", "danger-full-access", "echo it works");
  check(items.some((item) => item.type === "command_execution" && item.aggregated_output.trim() === "it works"), items);
  check(text.includes("it works"), text);
});
await step("a pod is killed, answers come", async () => {
  const asked = Promise.all([0, 1, 2].map((number) => codex("slow", `${SLOW.repeat(2)}${number}`)));
  await pause(2500);
  await killAPod();
  for (const { text } of await asked) check(text.startsWith("echo: tell me something"), text);
});
done();
